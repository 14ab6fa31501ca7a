"""agent_norm in plain PyTorch."""

import torch


def agent_norm_reference(
    g: torch.Tensor,
    scale: torch.Tensor | None,
    gate: torch.Tensor | None,
    norm: torch.Tensor,
    skipped: torch.Tensor,
) -> None:
    values = g if scale is None else g * scale
    result = values.double().square().sum(dim=1).sqrt().float()
    if gate is not None:
        result = torch.where(gate.isfinite(), result, gate)
    norm.copy_(result)
    skipped.add_(result.isfinite().logical_not())
