"""Engines that map the network over agents with torch.vmap."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fastsaddle.agents import AgentStack
from fastsaddle.sim.engine import Engine
from fastsaddle.sim.engines._collected import Collected
from fastsaddle.sim.engines._cross_entropy import is_mean_cross_entropy, mean_cross_entropy
from fastsaddle.sim.engines._features import returning_features
from fastsaddle.sim.engines._joining import joined
from fastsaddle.sim.engines._patch_convolution import MappedLayers, Stacked
from fastsaddle.sim.engines._precision import casting, in_float32


class Mapped(Engine):
    """Maps the agents of each part at once; whether the network can be is tried on one agent."""

    reads_rows = True

    def __init__(
        self, stack: AgentStack, chunk: int | None = None, precision: str = "float32"
    ) -> None:
        super().__init__(stack, chunk, precision)
        self._collected = Collected(stack)
        # under vmap cross entropy is dozens of launches on a GPU, with a sort where algorithms are deterministic
        self._by_hand = stack.device.type != "cpu"

    @classmethod
    def can_run(
        cls, stack: AgentStack, precision: str = "float32", inputs: Tensor | None = None
    ) -> str | None:
        if inputs is None:
            return None
        # without the convolutions of a subclass, whose kernels would be compiled for one agent
        reason = stack.obstacle(inputs, partial(_surroundings, precision, stack.device))
        return None if reason is None else f"cannot map {reason}"

    def convolution(self) -> Stacked | None:
        """What takes convolutions of all agents at once; None leaves them to torch.vmap."""
        return None

    def gradients(self, inputs: Tensor, targets: Any, loss: Any, features: str | None) -> Any:
        buffers = self.stack.pass_buffers()
        with returning_features(self.stack.called, features), self._collected:
            found = [self._map_part(part, inputs, targets, loss, buffers) for part in self.parts()]
        return joined(torch.cat, found)

    def outputs(self, inputs: Tensor, whose: Tensor | None, features: str | None) -> Any:
        found = []
        for part in self.parts():
            rows = part if whose is None else whose[part]
            named = {name: p.detach()[rows] for name, p in self.stack.named_parameters()}
            buffers = {name: b[rows].clone() for name, b in self.stack.buffers.items()}
            features_too = returning_features(self.stack.called, features)
            with self._mapping(), features_too, self.casting():
                found.append(self.stack.forward(named, buffers, inputs[part]))
        return joined(torch.cat, found)

    def _mapping(self) -> AbstractContextManager[Any]:
        convolution = self.convolution()
        is_needed = convolution is not None or self.precision == "bfloat16"
        return MappedLayers(convolution) if is_needed else nullcontext()

    def _map_part(
        self, part: slice, inputs: Tensor, targets: Any, loss: Any, buffers: dict[str, Tensor]
    ) -> Any:
        wanted = {name for name, p in self.stack.named_parameters() if p.requires_grad}
        named = {
            name: model.detach()[part].requires_grad_(name in wanted)
            for name, model in self.stack.named_models()
        }
        with self.casting():
            with self._mapping():
                given = {n: b[part] for n, b in buffers.items()}
                its = dict(given)
                outputs = self.stack.forward(named, its, inputs[part])
            mine = tree_map(lambda t: t[part], targets)
            if self._by_hand and is_mean_cross_entropy(loss, outputs, mine):
                found, starts = mean_cross_entropy(outputs.detach(), mine)
                ends = outputs
            else:
                found = torch.vmap(loss)(in_float32(outputs), mine)
                ends, starts = (found[0] if isinstance(found, tuple) else found).sum(), None
        models = [named[name] for name in wanted]
        taken = torch.autograd.grad(ends, models, starts, allow_unused=True)
        self._collected.write(part, dict(zip(wanted, taken, strict=True)))
        for name, value in its.items():
            if value is not given[name]:
                buffers[name][part].copy_(value)
        return tree_map(Tensor.detach, found)


@contextmanager
def _surroundings(precision: str, device: torch.device) -> Iterator[None]:
    """What a pass in `precision` is surrounded by, convolutions left to torch.vmap."""
    layers = MappedLayers(None) if precision == "bfloat16" else nullcontext()
    with layers, casting(precision, device):
        yield
