"""The Hessian of the mean loss: its top eigenvalue and its trace, from products with vectors alone."""

import math
import warnings
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

import torch
from torch import Tensor, nn

from fastsaddle.agents import AgentStack
from fastsaddle.sharpness.base import dot, drawn, measure, scaled
from fastsaddle.sharpness.objective import Loss, MeanLoss, Model

T = TypeVar("T", float, Tensor)


@measure
def top_eigenvalue(
    model: Model,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    iterations: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
    batch_size: int = 500,
) -> Tensor:
    """The eigenvalue of the Hessian that is largest in magnitude, with its sign, by power iteration.

    The value is the Rayleigh quotient v^T H v of the last unit vector v; a symmetric matrix has an eigenvalue at most
    ||H v - (v^T H v) v|| away from it. The iteration ends once that bound is at most `tolerance` times the value; if
    `iterations` do not suffice, a RuntimeWarning says so (the value is then mostly much closer than the bound). The
    first vector is normal, and the same on every device and for all agents; each agent stops by itself. Power iteration
    on Hessian-vector products is that of Yao et al. 2019 (arXiv:1912.07145, PyHessian).

    Args:
        model: as for `mean_loss`.
        loss: as for `mean_loss`; it must be twice differentiable.
        inputs: as for `mean_loss`.
        targets: as for `mean_loss`.
        iterations: most products with the Hessian.
        tolerance: relative, > 0.
        seed: seed of the first vector.
        batch_size: most samples in a batch.

    Returns:
        A float for a module, float64 `[agents]` on the CPU for a stack.

    Raises:
        ValueError: fewer than one iteration, a tolerance that is not > 0, or see `mean_loss`.

    Example:
        >>> import torch
        >>> from fastsaddle import sharpness
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> inputs, targets = torch.ones(10, 3), torch.zeros(10, 1)
        >>> loss = torch.nn.functional.mse_loss
        >>> round(sharpness.top_eigenvalue(model, loss, inputs, targets), 3)
        6.0
    """
    if iterations < 1:
        raise ValueError(f"iterations must be >= 1, got {iterations}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be > 0, got {tolerance}")

    def power(part: MeanLoss) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(seed)
        v = [drawn(p, generator).expand_as(p) for p in part.x]
        # value and residual; agents that have converged are left out from then on
        found = torch.empty(part.agents, 2, dtype=torch.float64, device=part.x[0].device)
        left = torch.arange(part.agents, device=found.device)
        for _ in range(iterations):
            v = scaled(v, 1 / dot(v, v).sqrt())
            product = part.hessian_products(v)
            value = dot(v, product)
            rest = [h - d for h, d in zip(product, scaled(v, value), strict=True)]
            residual = dot(rest, rest).sqrt()
            found[left] = torch.stack([value, residual], 1)
            going = residual > tolerance * value.abs()
            if not going.any():
                break
            left, part, v = left[going], part.rows(going), [h[going] for h in product]
        return found

    mean = MeanLoss.of(model, loss, inputs, targets, batch_size)
    value, residual = mean.measure(power).unbind(1)
    excess = residual - tolerance * value.abs()
    if (excess > 0).any():
        worst = int(excess.nan_to_num(-math.inf).argmax())
        of = f" of agent {worst}" if isinstance(model, AgentStack) else ""
        warnings.warn(
            f"the top eigenvalue{of} is within {residual[worst]:.2g} of {value[worst]:.4g} "
            f"after {iterations} iterations",
            RuntimeWarning,
            stacklevel=3,
        )
    return value


@dataclass(frozen=True)
class Trace(Generic[T]):
    """An estimate of `trace` with its standard error: floats for a module, float64 `[agents]` on the CPU for a stack.

    Args:
        estimate: the mean over probes.
        standard_error: its standard error.
    """

    estimate: T
    standard_error: T


@overload
def trace(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    probes: int = ...,
    seed: int = ...,
    batch_size: int = ...,
) -> Trace[float]: ...
@overload
def trace(
    model: AgentStack,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    probes: int = ...,
    seed: int = ...,
    batch_size: int = ...,
) -> Trace[Tensor]: ...
def trace(
    model: Model,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    probes: int = 100,
    seed: int = 0,
    batch_size: int = 500,
) -> Trace[float] | Trace[Tensor]:
    """The trace of the Hessian by Hutchinson's estimate: the mean of z^T H z over vectors z of random signs.

    Hutchinson 1990; for neural networks Yao et al. 2019 (arXiv:1912.07145, PyHessian). It is unbiased, with variance 2
    sum_{i != j} H_ij^2 / probes; the standard error is the sample deviation over probes / sqrt(probes). The probes are
    the same on every device and for all agents, so the errors of agents are not independent.

    Args:
        model: as for `mean_loss`.
        loss: as for `mean_loss`; it must be twice differentiable.
        inputs: as for `mean_loss`.
        targets: as for `mean_loss`.
        probes: number of products with the Hessian, >= 2.
        seed: seed of the probes.
        batch_size: most samples in a batch.

    Raises:
        ValueError: fewer than 2 probes, or see `mean_loss`.

    Example:
        >>> import torch
        >>> from fastsaddle import sharpness
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> inputs, targets = torch.eye(3), torch.zeros(3, 1)
        >>> loss = torch.nn.functional.mse_loss
        >>> round(sharpness.trace(model, loss, inputs, targets, probes=10).estimate, 4)
        2.0
    """
    if probes < 2:
        raise ValueError(f"probes must be >= 2, got {probes}")

    def probed(part: MeanLoss) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(seed)
        found = []
        for _ in range(probes):
            bits = [
                torch.randint(2, p.shape[1:], generator=generator, device="cpu") for p in part.x
            ]
            z = [(2 * b - 1).to(p).expand_as(p) for b, p in zip(bits, part.x, strict=True)]
            found.append(dot(z, part.hessian_products(z)))
        return torch.stack(found, 1)

    found = MeanLoss.of(model, loss, inputs, targets, batch_size).measure(probed)
    estimate, error = found.mean(1), found.std(1) / math.sqrt(probes)
    if isinstance(model, AgentStack):
        return Trace(estimate, error)
    return Trace(estimate.item(), error.item())
