"""All agents at once by torch.vmap, their convolutions by Triton kernels that lay no patches out."""

from functools import partial

from torch import Tensor

from fastsaddle.agents import AgentStack
from fastsaddle.kernels.stacked_convolution import stacked_convolution
from fastsaddle.sim.engines._implicit_convolution import implicit_convolution
from fastsaddle.sim.engines._mapped import Mapped
from fastsaddle.sim.engines._patch_convolution import Stacked


class Implicit(Mapped):
    """The network mapped over agents; on a GPU, where it has not been measured."""

    @classmethod
    def can_run(
        cls, stack: AgentStack, precision: str = "float32", inputs: Tensor | None = None
    ) -> str | None:
        reason = stacked_convolution.unavailable(stack.device).get("triton")
        if reason is not None:
            return f"cannot run: {reason}"
        return super().can_run(stack, precision, inputs)

    def convolution(self) -> Stacked:
        return partial(implicit_convolution, tf32=self.precision == "tf32")
