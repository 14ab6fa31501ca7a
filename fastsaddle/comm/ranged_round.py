"""A round whose exchanges are ranges, for whoever profiles a step."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from fastsaddle.comm.base import LocalStep, Round
from fastsaddle.optimizer.ranges import NOTHING, ranged


class RangedRound(Round):
    """A `Round` with a range around each of its words that sends."""

    def mixed(self, *rows: torch.Tensor) -> Any:
        with self._range():
            return super().mixed(*rows)

    def pushed(self, x: torch.Tensor) -> torch.Tensor:
        with self._range():
            return super().pushed(x)

    def differences(self, *rows: torch.Tensor) -> Any:
        with self._range():
            return super().differences(*rows)

    def gossip_step_(self, x: torch.Tensor, step: LocalStep) -> None:
        with self._range():
            super().gossip_step_(x, step)

    def deliver(self, rows: torch.Tensor) -> torch.Tensor:
        with self._range():
            return super().deliver(rows)

    def _range(self) -> AbstractContextManager[None]:
        """None in a step without gossip, and where agents meet in an average when all groups have stepped."""
        sends = self.gossips and not self.communicator.averages
        return ranged("gossip") if sends else NOTHING
