"""Gradients of all agents into the flat gradient buffer: mapped over agents at once, or agent after agent."""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fastsaddle.agents import AgentStack

Loss = Callable[[Tensor, Tensor], Tensor]


# mapping has a fixed cost that fewer agents do not earn back on a CPU: 4 took 1.2 times as long as the loop
FEW_AGENTS = 8
# larger parts leave the caches and the allocator's memory: 1,024 agents took 1.2 times as long all at once
CPU_CHUNK = 64


def choose_engine(module: nn.Module, device: torch.device, agents: int) -> Literal["vmap", "loop"]:
    """The engine for a network, by a fixed rule from measurements (benchmarks/test_stacking_tax.py, peers.py).

    On a CPU networks with convolutions run agent after agent: vmap turns their per-agent weights into grouped
    convolutions, which took 1.3 to 2 times as long as the loop for LeNet-5. So do networks with embeddings, whose
    attention took 1.1 to 2.4 times as long for the transformer. Recurrent layers cannot be mapped.
    Fewer than 8 agents run one after the other there too. Everything else is mapped: one batched product in place of
    many small ones. On a GPU all but recurrent networks are mapped, as a loop would be bound by launches; that half of
    the rule has not been measured.
    """
    layers = list(module.modules())
    if any(isinstance(layer, nn.RNNBase) for layer in layers):
        return "loop"
    if device.type == "cpu" and agents < FEW_AGENTS:
        return "loop"
    if device.type == "cpu" and any(isinstance(layer, (_ConvNd, nn.Embedding)) for layer in layers):
        return "loop"
    return "vmap"


class GradientEngine:
    """Evaluates every agent's loss and gradient on its own batch.

    Engines agree up to rounding, not in the last bits: a run that is to be repeated keeps engine and chunk.

    Args:
        stack: the agents.
        loss: `(outputs [batch, ...], targets [batch, ...]) -> scalar`, for one agent.
        engine: "vmap", "loop", or "auto" for the rule of `choose_engine`.
        chunk: agents mapped at once, bounding the memory of activations; None is 64 on a CPU, all elsewhere. The
            loop ignores it.

    Attributes:
        engine, chunk: what was resolved.

    Raises:
        ValueError: unknown engine, or a chunk below 1.
    """

    def __init__(
        self, stack: AgentStack, loss: Loss, engine: str = "auto", chunk: int | None = None
    ) -> None:
        if engine not in ("auto", "vmap", "loop"):
            raise ValueError(f"engine must be auto, vmap or loop, got {engine!r}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1 agent, got {chunk}")
        self.stack, self.loss = stack, loss
        if engine == "auto":
            engine = choose_engine(stack.template, stack.device, stack.agents)
        self.engine = engine
        if chunk is None and stack.device.type == "cpu" and stack.agents > CPU_CHUNK:
            chunk = CPU_CHUNK
        self.chunk = None if self.engine == "loop" else chunk
        self._replicas: list[nn.Module] = []
        self._version = -1

    def gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Write every agent's gradient into `stack.g` and return the losses `[agents]`, detached.

        `inputs` and `targets` are `[agents, batch, ...]`. Raises ValueError for another leading dimension.
        """
        for name, value in (("inputs", inputs), ("targets", targets)):
            if value.shape[:1] != (self.stack.agents,):
                raise ValueError(
                    f"{name} must be [{self.stack.agents}, batch, ...], got {tuple(value.shape)}"
                )
        self.stack.rows.verify()
        with torch.enable_grad():
            return (
                self._loop(inputs, targets) if self.engine == "loop" else self._map(inputs, targets)
            )

    def _map(self, inputs: Tensor, targets: Tensor) -> Tensor:
        agents = self.stack.agents
        size = agents if self.chunk is None else min(self.chunk, agents)
        buffers = self.stack.pass_buffers()
        parts = [slice(first, min(first + size, agents)) for first in range(0, agents, size)]
        return torch.cat([self._map_part(part, inputs, targets, buffers) for part in parts])

    def _map_part(
        self, part: slice, inputs: Tensor, targets: Tensor, buffers: dict[str, Tensor]
    ) -> Tensor:
        named = {
            name: p.detach()[part].requires_grad_(p.requires_grad)
            for name, p in self.stack.named_parameters()
        }
        outputs = self.stack.forward(named, {n: b[part] for n, b in buffers.items()}, inputs[part])
        losses = torch.vmap(self.loss)(outputs, targets[part])
        wanted = [p for p in named.values() if p.requires_grad]
        found = torch.autograd.grad(losses.sum(), wanted, allow_unused=True)
        gradients = dict(zip(map(id, wanted), found, strict=True))
        for name, view in self.stack.named_gradients():
            gradient = gradients.get(id(named[name]))
            if gradient is None:
                view[part].zero_()
            else:
                view[part].copy_(gradient)
        return losses.detach()

    def _loop(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if self._version != self.stack.rows.version:
            self._replicas = replicas(self.stack)
            self._version = self.stack.rows.version
        still = self.stack.rows.second_pass
        kept = {n: b.clone() for n, b in self.stack.buffers.items()} if still else {}
        self.stack.g.zero_()
        losses = []
        try:
            for model, batch, target in zip(self._replicas, inputs, targets, strict=True):
                model.train(self.stack.training)
                loss = self.loss(model(batch), target)
                loss.backward()
                losses.append(loss.detach())
        finally:
            for name, value in kept.items():
                self.stack.buffers[name].copy_(value)
        return torch.stack(losses)


def replicas(stack: AgentStack) -> list[nn.Module]:
    """Plain modules, one an agent, whose parameters, gradients and buffers are that agent's rows of the stack."""
    parameters, gradients = dict(stack.named_parameters()), dict(stack.named_gradients())
    models = []
    for agent in range(stack.agents):
        model = copy.deepcopy(stack.template)
        for name, p in model.named_parameters():
            p.data = parameters[name].detach()[agent]
            p.grad = gradients[name][agent] if p.requires_grad else None
        for name, b in model.named_buffers():
            b.data = stack.buffers[name][agent]
        models.append(model)
    return models
