"""Chains of convolutions and linear layers for all agents at once, 16 samples in the lanes of a register, on a CPU."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from fastsaddle.agents import AgentStack
from fastsaddle.sim.engines._convolution_chain import ConvolutionChain
from fastsaddle.sim.engines._joining import joined
from fastsaddle.sim.engines._lane_path import obstacle
from fastsaddle.sim.engines._layer_chain import first_layer
from fastsaddle.sim.engines.batched import Batched

# dimensions and dtype
IMAGES = 5, torch.float32


class Lanes(Batched):
    """Gradients and outputs of a `ConvolutionChain`, in float32."""

    chain = ConvolutionChain

    @classmethod
    def can_run(
        cls, stack: AgentStack, precision: str = "float32", inputs: Tensor | None = None
    ) -> str | None:
        reason = obstacle(stack.template, stack.device, precision)
        if reason is None and inputs is not None and (inputs.dim(), inputs.dtype) != IMAGES:
            given = f"{inputs.dtype} {list(inputs.shape)}"
            reason = f"it takes float32 [agents, batch, channels, height, width], got {given}"
        return None if reason is None else f"cannot run: {reason}"

    def casting(self) -> AbstractContextManager[Any]:
        """Lanes hold float32, also within an autocast of the caller's own."""
        return torch.autocast("cpu", enabled=False)

    def outputs(self, inputs: Tensor, whose: Tensor | None, features: str | None) -> Any:
        found, features = [], first_layer(self.stack.template, features)
        for part in self.parts():
            rows = part if whose is None else whose[part]
            models = {name: p.detach()[rows] for name, p in self.stack.named_parameters()}
            with self.casting():
                got, its = self._chain.outputs(models, inputs[part], features)
            found.append(got if features is None else (got, its))
        return joined(torch.cat, found)
