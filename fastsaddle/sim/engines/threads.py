"""As many agents at once as torch has threads, each a plain module on a thread of its own."""

import torch
from torch import Tensor

from fastsaddle.agents import AgentStack
from fastsaddle.sim.engines._agent_loop import AgentLoop


class Threads(AgentLoop):
    """A loop whose agents run side by side, on a CPU."""

    side_by_side = True

    @classmethod
    def can_run(
        cls, stack: AgentStack, precision: str = "float32", inputs: Tensor | None = None
    ) -> str | None:
        if stack.device.type == "cpu" and torch.backends.openmp.is_available():
            return None
        return f"needs a CPU and a torch built with OpenMP, the device is {stack.device}"
