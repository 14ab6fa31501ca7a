"""Where a step in progress stands: what it must not lose, and what it must not leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from fastsaddle.comm.base import Round


class Phase:
    """Shared by all copies of an optimizer's `__dict__`, as wrappers of training loops make them.

    Attributes:
        steps: whether a step is in progress.
        home: rows `[agents, stride]` that hold the models while parameters hold others; None where they hold them.
        home_parts: each parameter's part of `home`.
        end: columns of `home` that are filled, from the first on.
        norm: `[agents]`: norms of the rows ascended along, while parameters are perturbed.
        rounds: exchanges that have begun before the step's commit.
        nbytes: bytes sent besides those of the rounds.
        passing: what one part of a step leaves for a later one.
        looked: pairs of a state and what it is to become.
        slot: which of a step's several evaluations is in progress, see `Gradient.evaluate`.
        evaluations: how many closures were called.
        left: what `perturb()` left as gradients: what tells that they were written, and one of them.
        skipped: counts of gradients that were not finite, as they were before `perturb()`.
    """

    def __init__(self) -> None:
        self.steps = False
        self.clear()

    def clear(self) -> None:
        """No step is in progress."""
        self.home: torch.Tensor | None = None
        self.home_parts: list[torch.Tensor] = []
        self.end = 0
        self.norm: torch.Tensor | None = None
        self.left: tuple[Any, torch.Tensor | None] | None = None
        self.skipped: torch.Tensor | None = None
        self.forget()

    def forget(self) -> None:
        """No step is in progress, wherever parameters are."""
        self.rounds: list[Round] | None = None
        self.nbytes: int | torch.Tensor = 0
        self.passing: dict[str, Any] = {}
        self.looked: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.slot = 0
        self.evaluations = 0
