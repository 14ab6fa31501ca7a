"""The contract of an observer: whoever is told how a run goes."""

from typing import Any, Protocol

from torch import Tensor


class Observer(Protocol):
    """Somebody who is told what happens in a run.

    A class of your own inherits from it and has those of its methods that it needs. What a method raises ends the run,
    whose checkpoint before is whole.
    """

    def show_step(self, step: int, loss: Tensor, seconds: float) -> None:
        """After each step: how many are done, the mean training loss, still on its device, and what all steps took."""

    def begin_evaluation(self, step: int) -> None:
        """Before each evaluation: how many steps are done."""

    def show_evaluation(self, row: dict[str, Any]) -> None:
        """After each evaluation: the new line of metrics.jsonl."""
