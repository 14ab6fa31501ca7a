"""Sums of squares of a row's slices, which norms are made of."""

import torch

# columns that are added up together: a row's norm does not depend on how many rows there are
SLICE = 8192


def slice_sums(g: torch.Tensor) -> torch.Tensor:
    """Sums of squares `[agents, slices]` float64 of rows `[agents, columns]`."""
    padded = torch.nn.functional.pad(g.double(), (0, -g.shape[1] % SLICE))
    return padded.square().unflatten(1, (-1, SLICE)).sum(2)


def told_norm(norm: torch.Tensor, gate: torch.Tensor | None, skipped: torch.Tensor) -> torch.Tensor:
    """Norms `[agents]` as gated, with one added to `skipped` where they are not finite."""
    if gate is not None:
        norm = torch.where(gate.isfinite(), norm, gate)
    skipped.add_(norm.isfinite().logical_not())
    return norm


def norm_tolerance(output: str, expected: torch.Tensor) -> torch.Tensor:
    """One unit in the last place of float32 for norms, 2^-45 of itself for a sum, nothing else."""
    allowed = {"norm": 2.0**-23, "squares": 2.0**-45}
    return expected.abs() * allowed.get(output, 0.0)
