"""The mean loss over whole data as a function of the parameters, of one model or of many agents' at once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fastsaddle.agents import AgentStack
from fastsaddle.stacks.mapping import called, no_new_buffers
from fastsaddle.stacks.settings import attention_by_products, without_fast_path

Loss = Callable[[Tensor, Tensor], Tensor]
Model = nn.Module | AgentStack

# bounds the memory of activations
AGENTS_AT_ONCE = 64


@dataclass(frozen=True)
class MeanLoss:
    """The mean loss of `agents` models of one architecture, for a module of 1: all tensors are `[agents, ...]`.

    Attributes:
        names, x: the parameters that it is a function of.
        frozen, buffers: other parameters, and what a pass may write to.
        at_once: agents that `measure` takes together.
    """

    module: nn.Module
    names: tuple[str, ...]
    x: list[Tensor]
    frozen: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    loss: Loss
    inputs: Tensor
    targets: Tensor
    batch_size: int
    at_once: int

    @classmethod
    def of(
        cls,
        model: Model,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        names: tuple[str, ...] | None = None,
    ) -> "MeanLoss":
        """A function of the parameters `names`, by default of those that require gradients.

        Raises ValueError for what does not fit together, see `sharpness.mean_loss`.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        if len(inputs) != len(targets) or not len(inputs):
            raise ValueError(
                "inputs and targets must be equally many and at least one, "
                f"got {len(inputs)} and {len(targets)}"
            )
        named = dict(model.named_parameters())
        if isinstance(model, AgentStack):
            module, at_once = model.called, _agents_at_once(model)
            values, buffers = {n: p.detach() for n, p in named.items()}, model.buffers
        else:
            module, at_once = model, 1
            values = {n: p.detach()[None] for n, p in named.items()}
            buffers = {n: b.detach()[None] for n, b in model.named_buffers()}
        if names is None:
            names = tuple(name for name, p in named.items() if p.requires_grad)
        if not names:
            raise ValueError("the model has no parameters that require gradients")
        x = [values.pop(name) for name in names]
        return cls(module, names, x, values, buffers, loss, inputs, targets, batch_size, at_once)

    @property
    def agents(self) -> int:
        return len(self.x[0])

    def rows(self, which: slice | Tensor) -> "MeanLoss":
        """Some of the agents."""
        return replace(
            self,
            x=[p[which] for p in self.x],
            frozen={name: p[which] for name, p in self.frozen.items()},
            buffers={name: b[which] for name, b in self.buffers.items()},
        )

    def measure(self, function: Callable[["MeanLoss"], Tensor]) -> Tensor:
        """`function`, `[agents, ...]`, of `at_once` agents after the other, on the CPU; modules run in evaluation."""
        parts = range(0, self.agents, self.at_once)
        with evaluating(self.module):
            found = [function(self.rows(slice(i, i + self.at_once))).cpu() for i in parts]
        return torch.cat(found)

    @torch.no_grad()
    def values(self, at: list[Tensor]) -> Tensor:
        """The mean losses at other parameters, float64 `[agents]`."""
        return torch.stack([part.double() * share for part, share in self._parts(at)]).sum(0)

    @torch.enable_grad()
    def gradients(self) -> list[Tensor]:
        """Of each agent's mean loss at its own parameters."""
        x = [p.detach().requires_grad_() for p in self.x]
        total = [torch.zeros_like(p) for p in x]
        for part, share in self._parts(x):
            grads = torch.autograd.grad(part.sum() * share, x, materialize_grads=True)
            for t, g in zip(total, grads, strict=True):
                t += g
        return total

    @torch.enable_grad()
    def hessian_products(self, v: list[Tensor]) -> list[Tensor]:
        """Each agent's Hessian times its own vector, exact (Pearlmutter 1994)."""
        x = [p.detach().requires_grad_() for p in self.x]
        total = [torch.zeros_like(p) for p in x]
        for part, share in self._parts(x):
            grads = torch.autograd.grad(
                part.sum() * share, x, create_graph=True, materialize_grads=True
            )
            slope = torch.stack([(g * d).sum() for g, d in zip(grads, v, strict=True)]).sum()
            # the gradient of a loss that is linear in all parameters depends on none of them
            if slope.requires_grad:
                seconds = torch.autograd.grad(slope, x, materialize_grads=True)
                for t, h in zip(total, seconds, strict=True):
                    t += h
        return total

    def _parts(self, at: list[Tensor]) -> Iterator[tuple[Tensor, float]]:
        """Every batch's losses `[agents]` and its share of all samples, one at a time: only one graph lives."""
        for inputs, targets in zip(
            self.inputs.split(self.batch_size), self.targets.split(self.batch_size), strict=True
        ):
            values = {**self.frozen, **dict(zip(self.names, at, strict=True))}
            # a forward pass may write to buffers, even in evaluation
            buffers = {name: b.clone() for name, b in self.buffers.items()}
            if len(at[0]) == 1:
                first, held = ({n: t[0] for n, t in of.items()} for of in (values, buffers))
                losses = self._one(first, held, inputs, targets)[None]
            else:
                dims = 0, 0, None, None
                mapped = torch.vmap(self._one, in_dims=dims, randomness="different")
                losses = mapped(values, buffers, inputs, targets)
            yield losses, len(inputs) / len(self.inputs)

    def _one(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
    ) -> Tensor:
        loss = self.loss(called(self.module, parameters, buffers, (inputs,), {}), targets)
        if loss.ndim:
            raise ValueError(f"loss must give a scalar, got shape {tuple(loss.shape)}")
        return loss


def _agents_at_once(stack: AgentStack) -> int:
    """1 where mapping is impossible, or slower than one agent after the other."""
    unfit = (nn.RNNBase, nn.Embedding, _ConvNd) if stack.device.type == "cpu" else (nn.RNNBase,)
    return 1 if any(isinstance(m, unfit) for m in stack.template.modules()) else AGENTS_AT_ONCE


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside the block the module is in evaluation, and attention is computed by products that have derivatives."""
    with (
        no_new_buffers(module),
        _evaluation(module),
        without_fast_path(),
        attention_by_products(),
    ):
        yield


@contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode
