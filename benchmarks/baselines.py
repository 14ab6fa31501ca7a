"""What a user would write today: the same updates in eager PyTorch, torch._foreach, and torch.compile."""

from collections.abc import Callable

import torch

LR, BETA, WEIGHT_DECAY = 0.1, 0.9, 1e-4


def eager_qgm(x: torch.Tensor, g: torch.Tensor, momentum: torch.Tensor, W: torch.Tensor) -> None:
    """QGM on agent-stacked `[agents, dim]` tensors, W dense `[agents, agents]`; in place."""
    gradient = g + WEIGHT_DECAY * x
    h = x - LR * (BETA * momentum + gradient)
    mixed = W @ h
    momentum.mul_(BETA).add_((x - mixed) / LR, alpha=1 - BETA)
    x.copy_(mixed)


def ring_qgm(x: torch.Tensor, g: torch.Tensor, momentum: torch.Tensor) -> None:
    """The same on a ring, mixing by shifted rows instead of a dense product."""
    gradient = g + WEIGHT_DECAY * x
    h = x - LR * (BETA * momentum + gradient)
    mixed = (h + h.roll(1, 0) + h.roll(-1, 0)) / 3
    momentum.mul_(BETA).add_((x - mixed) / LR, alpha=1 - BETA)
    x.copy_(mixed)


def foreach_qgm(x: list[torch.Tensor], g: list[torch.Tensor], momentum: list[torch.Tensor]) -> None:
    """QGM on a ring, one tensor an agent, with torch._foreach operations."""
    agents = len(x)
    gradient = torch._foreach_add(g, x, alpha=WEIGHT_DECAY)
    torch._foreach_add_(gradient, momentum, alpha=BETA)
    h = torch._foreach_add(x, gradient, alpha=-LR)
    left, right = [h[i - 1] for i in range(agents)], [h[(i + 1) % agents] for i in range(agents)]
    mixed = torch._foreach_add(h, left)
    torch._foreach_add_(mixed, right)
    torch._foreach_div_(mixed, 3.0)
    moved = torch._foreach_sub(x, mixed)
    torch._foreach_div_(moved, LR)
    torch._foreach_mul_(momentum, BETA)
    torch._foreach_add_(momentum, moved, alpha=1 - BETA)
    torch._foreach_copy_(x, mixed)


def eager_perturb(x: torch.Tensor, g: torch.Tensor, saved: torch.Tensor, rho: float) -> None:
    """SAM's ascent step for all agents."""
    saved.copy_(x)
    x.add_(g * (rho / (g.norm(dim=1, keepdim=True) + 1e-12)))


def eager_consensus(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over agents and squared distances to it."""
    mean = x.mean(0)
    return mean, (x - mean).square().sum(1)


def compiled(update: Callable[..., None]) -> Callable[..., None]:
    """`update` under torch.compile, static shapes."""
    return torch.compile(update, dynamic=False)
