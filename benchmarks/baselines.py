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


def eager_qsaddle(
    x: torch.Tensor,
    g: torch.Tensor,
    momentum: torch.Tensor,
    saved: torch.Tensor,
    update: Callable[..., None],
) -> None:
    """Q-SADDLe outside its closures: ascent of radius 0.05, back, and `update(x, g, momentum)`, one of QGM."""
    eager_perturb(x, g, saved, 0.05)
    x.copy_(saved)
    update(x, g, momentum)


def sgd_and_gossip(x: torch.Tensor, g: torch.Tensor, W: torch.Tensor) -> Callable[[], None]:
    """A fused torch.optim.SGD with momentum for each row of `x`, then a product with the dense W."""
    rows = [torch.nn.Parameter(row) for row in x.unbind()]
    for row, gradient in zip(rows, g.unbind(), strict=True):
        row.grad = gradient
    rates = {"lr": LR, "momentum": BETA, "weight_decay": WEIGHT_DECAY, "fused": True}
    optimizers = [torch.optim.SGD([row], **rates) for row in rows]

    def step() -> None:
        for optimizer in optimizers:
            optimizer.step()
        x.copy_(W @ x)

    return step


def eager_consensus(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over agents and squared distances to it."""
    mean = x.mean(0)
    return mean, (x - mean).square().sum(1)


def eager_quantize(
    x: torch.Tensor, bits: int = 8, bucket: int = 512
) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes int8 `[agents, buckets, bucket]`, scales): stochastic rounding with torch.rand, packed below 8 bits."""
    levels, each = 2 ** (bits - 1) - 1, 8 // bits
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % bucket))
    parts = padded.view(x.shape[0], -1, bucket)
    scales = parts.abs().amax(dim=-1, keepdim=True) / levels
    codes = (parts / scales.clamp(min=1e-30) + torch.rand_like(parts)).floor_()
    codes = codes.clamp_(-levels, levels).to(torch.int8)
    if each > 1:
        fields = (codes & (1 << bits) - 1).view(*codes.shape[:2], -1, each)
        codes = fields[..., 0]
        for place in range(1, each):
            codes = codes | fields[..., place] << place * bits
    return codes, scales


def eager_dequantize_add(codes: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
    """out += the values of 8-bit codes."""
    out += (codes * scales).flatten(1)[:, : out.shape[1]]


def eager_compress_ef(x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Error feedback around 8-bit quantization."""
    v = x + residual
    codes, scales = eager_quantize(v)
    residual.copy_(v - (codes * scales).flatten(1)[:, : x.shape[1]])
    return codes, scales


def eager_sign(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Signs packed by eight, and the mean magnitude."""
    bits = (x < 0).view(x.shape[0], -1, 8).to(torch.uint8)
    places = torch.arange(8, dtype=torch.uint8, device=x.device)
    return (bits << places).sum(-1, dtype=torch.uint8), x.abs().mean(1)


def eager_top_k(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(indices, values) of the largest magnitudes."""
    indices = x.abs().topk(k, dim=1, sorted=False).indices
    return indices, x.gather(1, indices)


def eager_random_k(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(indices, values) chosen at random without replacement."""
    indices = torch.rand_like(x).topk(k, dim=1, sorted=False).indices
    return indices, x.gather(1, indices)


def eager_choco_qgm(
    x: torch.Tensor, g: torch.Tensor, momentum: torch.Tensor, x_hat: torch.Tensor
) -> None:
    """Comp QGM on a ring with 8-bit quantization, consensus step 1; in place."""
    gradient = g + WEIGHT_DECAY * x
    h = x - LR * (BETA * momentum + gradient)
    codes, scales = eager_quantize(h - x_hat)
    eager_dequantize_add(codes, scales, x_hat)
    mixed = h + (x_hat + x_hat.roll(1, 0) + x_hat.roll(-1, 0)) / 3 - x_hat
    momentum.mul_(BETA).add_((x - mixed) / LR, alpha=1 - BETA)
    x.copy_(mixed)


def compiled(update: Callable[..., None]) -> Callable[..., None]:
    """`update` under torch.compile, static shapes."""
    return torch.compile(update, dynamic=False)
