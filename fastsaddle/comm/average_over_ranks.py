"""Meetings of agents that are spread over processes: the mean of all in their order, so the bits of one process."""

from __future__ import annotations

from fastsaddle.comm.over_ranks import OverRanks
from fastsaddle.comm.period import QSR
from fastsaddle.comm.stacked_average import StackedAverage, StackedElastic
from fastsaddle.ranks.placement import Placement


class RankAverage(OverRanks, StackedAverage):
    """`Average` among all agents of a placement.

    Args:
        placement: who holds which agents.
        period: as in `Average`.
        stacked: whether parameters are `[agents here, ...]`; otherwise they are ordinary ones of one agent.
    """

    is_elementwise = False

    def __init__(self, placement: Placement, period: int | QSR, stacked: bool = True) -> None:
        super().__init__(placement.agents, period)
        self._place(placement)
        self.stacked = stacked


class RankElastic(RankAverage, StackedElastic):
    """`Elastic` among all agents of a placement; every rank keeps the center, of equal bits."""
