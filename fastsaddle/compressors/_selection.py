"""Choosing k elements of every tensor, and adding such messages: what sparsifying compressors share."""

from collections.abc import Sequence
from functools import cache

import torch

from fastsaddle.compressors._wire import runs, step_tensor, table_of, tensors_of, weight_tensor
from fastsaddle.kernels.top_k import top_k
from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.hyperparameters import is_number


def check_keep(keep: float) -> None:
    """Raise ValueError unless `keep` is a fraction in (0, 1]."""
    if not is_number(keep) or not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], the fraction that is sent, got {keep!r}")


def kept(keep: float, dim: int) -> int:
    """How many of a tensor's elements are sent: max(1, int(keep * dim))."""
    return max(1, int(keep * dim))


def chosen(
    rows: torch.Tensor,
    place: FlatLayout,
    keep: float,
    random: bool,
    seed: int,
    step: int | torch.Tensor,
    first_agent: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(indices int32, values float32), both `[agents, kept]`: by magnitude, or at random."""
    table = table_of(place, None, rows.device)
    counts = _counts_of(place, keep, rows.device)
    total = sum(kept(keep, elements) for _, elements in tensors_of(place))
    indices = rows.new_empty(len(rows), total, dtype=torch.int32)
    values = rows.new_empty(len(rows), total)
    number = step_tensor(step, rows.device)
    top_k(rows, table, counts, random, seed, number, first_agent, indices, values)
    return indices, values


def drawn(
    place: FlatLayout,
    keep: float,
    columns: int,
    seed: int,
    step: torch.Tensor,
    agents: Sequence[int],
) -> torch.Tensor:
    """The indices that `chosen` draws for agents of these numbers, int32 `[agents, kept]`.

    Raises:
        ValueError: `step` is not 0-d.
    """
    if step.dim():
        raise ValueError(
            f"step must be one for all agents where messages are read, got {tuple(step.shape)}"
        )
    # whatever the values are
    rows = step.new_zeros(len(agents), columns, dtype=torch.float32)
    parts = rows.split([count for _, count in runs(agents)])
    found = [
        chosen(part, place, keep, True, seed, step, first)[0]
        for part, (first, _) in zip(parts, runs(agents), strict=True)
    ]
    return torch.cat(found)


# kept for good: a captured graph knows nothing but its address
@cache
def _counts_of(place: FlatLayout, keep: float, device: torch.device) -> torch.Tensor:
    counts = [kept(keep, elements) for _, elements in tensors_of(place)]
    return torch.tensor(counts, dtype=torch.int32, device=device)


def scatter_add_(
    out: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, weight: float | torch.Tensor
) -> None:
    """out[i, indices[i]] += weight * values[i], in place."""
    factor = weight_tensor(weight, out).reshape(-1, 1)
    out.scatter_add_(1, indices.long(), factor * values)
