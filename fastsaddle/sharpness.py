"""How sharp the minimum is that a model lies in: SAM's sharpness, the Hessian's top eigenvalue, the loss around it.

All measures look at the mean loss over whole data: `loss(outputs, targets)` is a scalar that averages over its
samples, as `torch.nn.functional.cross_entropy` does, and runs on batches of at most `batch_size` samples, each counted
by its size. Parameters that need no gradient stay fixed. The model runs in evaluation mode and is left as it was to
the bit, also when an error falls: it is called with other tensors in place of its parameters and buffers.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

Loss = Callable[[Tensor, Tensor], Tensor]


@torch.enable_grad()
def sam_sharpness(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    rho: float = 0.05,
    batch_size: int = 500,
) -> float:
    """L(x + rho g / ||g||) - L(x), g being the gradient at x and its norm one over all parameters.

    Foret et al. 2020, arXiv:2010.01412: the bracket of section 2 with the first-order maximizer of equation 2 (p = 2).
    0 where the gradient is zero.

    Args:
        model: any module.
        loss: takes outputs and targets of a batch; the mean over its samples, a scalar.
        inputs: `[samples, ...]`, on the model's device.
        targets: `[samples, ...]`.
        rho: radius of the neighborhood, in the unit of the parameters.
        batch_size: samples at once.

    Raises:
        ValueError: rho is negative or not finite, or see `loss_surface`.
    """
    if not (rho >= 0 and math.isfinite(rho)):
        raise ValueError(f"rho must be finite and >= 0, got {rho}")
    mean = _MeanLoss(model, loss, inputs, targets, batch_size)
    with _evaluating(model):
        x = mean.parameters
        g = mean.gradient(x)
        norm = _dot(g, g) ** 0.5
        if norm == 0:
            return 0.0
        ascended = [p + (rho / norm) * d for p, d in zip(x, g, strict=True)]
        return mean.value(ascended) - mean.value(x)


@torch.enable_grad()
def top_eigenvalue(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    iterations: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
    batch_size: int = 500,
) -> float:
    """The eigenvalue of the Hessian that is largest in magnitude, with its sign, by power iteration.

    Hessian-vector products H v are exact (Pearlmutter 1994). The value is the Rayleigh quotient v^T H v of the last
    unit vector v; a symmetric matrix has an eigenvalue at most ||H v - (v^T H v) v|| away from it. The iteration ends
    once that is at most `tolerance` times the value, and gives a RuntimeWarning if `iterations` did not suffice (the
    value is then mostly much closer than the bound). The first vector is normal and the same on every device.

    Args:
        model, loss, inputs, targets, batch_size: as for `sam_sharpness`; the loss must be twice differentiable.
        iterations: products with the Hessian at most.
        tolerance: relative, > 0.
        seed: of the first vector.

    Raises:
        ValueError: fewer than one iteration, a tolerance that is not > 0, or see `loss_surface`.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be >= 1, got {iterations}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be > 0, got {tolerance}")
    mean = _MeanLoss(model, loss, inputs, targets, batch_size)
    v = _normal(mean.parameters, torch.Generator().manual_seed(seed))
    value = residual = math.nan
    with _evaluating(model):
        for _ in range(iterations):
            scale = _dot(v, v) ** 0.5
            v = [d / scale for d in v]
            product = mean.hessian_product(mean.parameters, v)
            value = _dot(v, product)
            rest = [h - value * d for h, d in zip(product, v, strict=True)]
            residual = _dot(rest, rest) ** 0.5
            if residual <= tolerance * abs(value):
                return value
            v = product
    warnings.warn(
        f"the top eigenvalue is within {residual:.2g} of {value:.4g} after {iterations} iterations",
        RuntimeWarning,
        stacklevel=3,
    )
    return value


@torch.no_grad()
def loss_surface(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    extent: float = 1.0,
    points: int = 21,
    seed: int = 0,
    batch_size: int = 500,
) -> Tensor:
    """The mean loss at x + a d + b e, for two random directions d and e normalized filter by filter.

    Li et al. 2018, arXiv:1712.09913, section 4: normal draws, each filter (a row of a matrix, an output channel of a
    convolution) scaled to the norm of the model's own; zero for biases (parameters of at most one dimension) and for
    the parameters of normalization layers (classes with "Norm" in their names). Filters of e are made orthogonal to
    those of d, which is our addition: the paper leaves it to chance. The draws depend on the seed and on the shapes
    only, so models of one architecture are seen in the same directions, each on its own scale.

    Args:
        model, loss, inputs, targets, batch_size: as for `sam_sharpness`.
        extent: a and b go from -extent to extent; at 1 a direction is as long as the model's filters.
        points: of a side, odd: the one in the middle is the model itself.
        seed: of the directions.

    Returns:
        `[points, points]` float64 on the CPU, a by row and b by column.

    Raises:
        ValueError: points that are even or below 3, an extent that is not > 0 and finite, a batch_size below 1, no
            samples, inputs and targets of different lengths, a model without parameters that require gradients, or a
            loss that is not a scalar.
    """
    if points < 3 or points % 2 == 0:
        raise ValueError(f"points must be odd and >= 3, got {points}")
    if not (extent > 0 and math.isfinite(extent)):
        raise ValueError(f"extent must be finite and > 0, got {extent}")
    mean = _MeanLoss(model, loss, inputs, targets, batch_size)
    x = mean.parameters
    d, e = _directions(model, seed)
    half = points // 2
    # whole numbers first: the one in the middle is then an exact zero
    places = [extent * k / half for k in range(-half, half + 1)]
    surface = torch.empty(points, points, dtype=torch.float64)
    with _evaluating(model):
        for i, a in enumerate(places):
            row = [p + a * q for p, q in zip(x, d, strict=True)]
            for j, b in enumerate(places):
                surface[i, j] = mean.value([p + b * q for p, q in zip(row, e, strict=True)])
    return surface


class _MeanLoss:
    """The mean loss as a function of the parameters that require gradients, given as a list."""

    def __init__(
        self, model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, batch_size: int
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        if len(inputs) != len(targets) or not len(inputs):
            raise ValueError(
                "inputs and targets must be equally many and at least one, "
                f"got {len(inputs)} and {len(targets)}"
            )
        named = _trained(model)
        if not named:
            raise ValueError("the model has no parameters that require gradients")
        self.names = list(named)
        self.parameters = [p.detach().requires_grad_() for p in named.values()]
        self.model, self.loss = model, loss
        self.inputs, self.targets, self.batch_size = inputs, targets, batch_size

    def value(self, at: list[Tensor]) -> float:
        with torch.no_grad():
            return math.fsum(float(part) for part in self._parts(at))

    def gradient(self, at: list[Tensor]) -> list[Tensor]:
        total = [torch.zeros_like(p) for p in at]
        for part in self._parts(at):
            grads = torch.autograd.grad(part, at, materialize_grads=True)
            for t, g in zip(total, grads, strict=True):
                t += g
        return total

    def hessian_product(self, at: list[Tensor], v: list[Tensor]) -> list[Tensor]:
        total = [torch.zeros_like(p) for p in at]
        for part in self._parts(at):
            grads = torch.autograd.grad(part, at, create_graph=True, materialize_grads=True)
            slope = torch.stack([(g * d).sum() for g, d in zip(grads, v, strict=True)]).sum()
            # the gradient of a loss that is linear in all parameters depends on none of them
            if slope.requires_grad:
                seconds = torch.autograd.grad(slope, at, materialize_grads=True)
                for t, h in zip(total, seconds, strict=True):
                    t += h
        return total

    def _parts(self, at: list[Tensor]) -> Iterator[Tensor]:
        """Every batch's share of the mean, one at a time so that only one graph lives."""
        batches = zip(
            self.inputs.split(self.batch_size), self.targets.split(self.batch_size), strict=True
        )
        for inputs, targets in batches:
            # a forward pass may write to buffers, even in evaluation
            buffers = {name: b.clone() for name, b in self.model.named_buffers()}
            values = dict(zip(self.names, at, strict=True)) | buffers
            part = self.loss(functional_call(self.model, values, (inputs,)), targets)
            if part.ndim:
                raise ValueError(f"loss must give a scalar, got shape {tuple(part.shape)}")
            yield part * (len(inputs) / len(self.inputs))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _dot(first: list[Tensor], second: list[Tensor]) -> float:
    return math.fsum(
        float((a.double() * b.double()).sum()) for a, b in zip(first, second, strict=True)
    )


def _normal(like: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Drawn on the CPU, where the draws of a seed are the same for every device."""
    return [torch.randn(p.shape, generator=generator).to(p) for p in like]


def _directions(model: nn.Module, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Two directions, each with a tensor for every parameter that requires a gradient."""
    fixed = {
        id(p)
        for module in model.modules()
        if "Norm" in type(module).__name__
        for p in module.parameters(recurse=False)
    }
    parameters = [*_trained(model).values()]
    generator = torch.Generator().manual_seed(seed)
    d, e = _normal(parameters, generator), _normal(parameters, generator)
    for p, first, second in zip(parameters, d, e, strict=True):
        if p.ndim < 2 or id(p) in fixed:
            first.zero_()
            second.zero_()
            continue
        w, u, v = p.flatten(1), first.flatten(1), second.flatten(1)
        # a filter of one weight has no second direction
        if w.shape[1] > 1:
            v -= (v * u).sum(1, keepdim=True) / u.square().sum(1, keepdim=True) * u
        for direction in (u, v):
            direction *= w.norm(dim=1, keepdim=True) / direction.norm(dim=1, keepdim=True)
    return d, e
