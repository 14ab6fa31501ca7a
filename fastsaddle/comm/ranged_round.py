"""A round whose exchanges are ranges, for whoever profiles a step."""

from __future__ import annotations

from typing import Any

import torch

from fastsaddle.comm.base import LocalStep, Round
from fastsaddle.optimizer.ranges import ranged

GOSSIP = "gossip"


class RangedRound(Round):
    """A `Round` with a range around each of its words that sends."""

    def mixed(self, *rows: torch.Tensor) -> Any:
        with ranged(GOSSIP):
            return super().mixed(*rows)

    def pushed(self, x: torch.Tensor) -> torch.Tensor:
        with ranged(GOSSIP):
            return super().pushed(x)

    def differences(self, *rows: torch.Tensor) -> Any:
        with ranged(GOSSIP):
            return super().differences(*rows)

    def gossip_step_(self, x: torch.Tensor, step: LocalStep) -> None:
        with ranged(GOSSIP):
            super().gossip_step_(x, step)

    def deliver(self, rows: torch.Tensor) -> torch.Tensor:
        with ranged(GOSSIP):
            return super().deliver(rows)
