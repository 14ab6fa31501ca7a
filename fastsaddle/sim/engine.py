"""What an engine is: one way to take the gradients of all agents of a stack."""

from contextlib import AbstractContextManager
from typing import Any, ClassVar

from torch import Tensor

from fastsaddle.agents import AgentStack
from fastsaddle.sim.engines._precision import casting


class Engine:
    """Takes the gradients of all agents; a file of `fastsaddle/sim/engines/` holds one, or a file of the user's.

    `GradientEngine` finds it, asks `can_run`, makes it and calls it, with arguments whose leading dimensions are right.

    Args:
        stack: the agents.
        chunk: how many agents may be computed at once, to bound the memory of activations; None: all.
        precision: "float32", "tf32" or "bfloat16"; `casting` and the caller's contexts see to it.

    Attributes:
        one_by_one: whether it runs each agent's model by itself: then `chunk` is None, and evaluation does likewise.
        reads_rows: whether `gradients` takes models from `stack.named_models()`, instead of from the parameters.
        reads_host: what it reads or decides on the host, which keeps steps out of a CUDA graph: "gradients", all of it;
            "whose", only the argument of `outputs`.
    """

    one_by_one: ClassVar[bool] = False
    reads_rows: ClassVar[bool] = False
    reads_host: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, stack: AgentStack, chunk: int | None = None, precision: str = "float32"
    ) -> None:
        self.stack, self.chunk, self.precision = stack, chunk, precision

    @classmethod
    def can_run(
        cls, stack: AgentStack, precision: str = "float32", inputs: Tensor | None = None
    ) -> str | None:
        """Why it cannot, in words that follow its name ("needs a GPU"); None where it can.

        Nothing is changed. It is asked before it is made and, with the first inputs, before it computes anything.

        Args:
            stack: the agents.
            precision: as for the class.
            inputs: `[agents, batch, ...]`; None where they are not known yet.
        """
        return None

    def gradients(self, inputs: Tensor, targets: Any, loss: Any, features: str | None) -> Any:
        """Write every agent's gradient into `stack.g`, zeros where there is none; what `loss` returned, detached.

        Gradients are those at `stack.named_models()`, which are the parameters where `reads_rows` is False.

        Args:
            inputs: `[agents, batch, ...]`.
            targets: `[agents, ...]`, a tensor or a tree of them.
            loss: of one agent: (outputs float32, its targets) to a scalar or to (scalar, a tree of more); with
                `features` its outputs are (outputs, input of that layer).
            features: name of a layer, or None.

        Returns:
            The same tree, each leaf `[agents, ...]`.
        """
        # every engine has its own
        raise NotImplementedError

    def outputs(self, inputs: Tensor, whose: Tensor | None, features: str | None) -> Any:
        """Outputs `[agents, batch, ...]`, called without gradients; buffers (running statistics) are left as they are.

        Args:
            inputs: `[agents, batch, ...]`.
            whose: int64 `[agents]`: which agent's model each batch is put into; None: its own agent's.
            features: name of a layer whose input is to be returned too: (outputs, input).
        """
        # and so here
        raise NotImplementedError

    def casting(self) -> AbstractContextManager[Any]:
        """The context of a forward pass: autocast where the precision asks for it."""
        return casting(self.precision, self.stack.device)

    def parts(self) -> list[slice]:
        """The agents, cut into parts of at most `chunk`."""
        agents = self.stack.agents
        size = agents if self.chunk is None else min(self.chunk, agents)
        return [slice(start, min(start + size, agents)) for start in range(0, agents, size)]
