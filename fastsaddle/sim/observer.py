"""The contract of an observer: whoever is told how a run goes."""

from typing import Any, Protocol

from torch import Tensor


class Observer(Protocol):
    """What is told how a run goes. Your own is a subclass with those of its methods that you need.

    An error that a method raises ends the run; its last checkpoint is whole.
    """

    def show_step(self, step: int, loss: Tensor, seconds: float) -> None:
        """Called after each step.

        Args:
            step: number of steps done.
            loss: mean training loss of the step, 0-d, still on its device.
            seconds: seconds that all steps have taken.
        """

    def begin_evaluation(self, step: int) -> None:
        """Called before each evaluation.

        Args:
            step: number of steps done.
        """

    def show_evaluation(self, row: dict[str, Any]) -> None:
        """Called after each evaluation.

        Args:
            row: the new line of metrics.jsonl, by key.
        """
