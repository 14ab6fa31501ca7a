"""Gossip along two mixing matrices at once: models are pulled by rows, what adds up is pushed by columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from fastsaddle.comm.base import NOT_STACKED, Communicator, Exchange
from fastsaddle.comm.lists import check_consensus_step
from fastsaddle.comm.over_ranks import RankGossip
from fastsaddle.comm.stacked import STEPS_DONE, StackedGossip
from fastsaddle.graphs.directed import column_stochastic, row_stochastic
from fastsaddle.graphs.faults import Faulty
from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.graphs.needs import SUMS
from fastsaddle.graphs.schedule import Schedule, kind_of
from fastsaddle.graphs.topology import check_topology, is_drawn, resolve
from fastsaddle.ranks.placement import Placement, is_stack


@dataclass(frozen=True)
class PushPull:
    """Gossip along two matrices: models by R, whose rows sum to one, and sums by C, whose columns sum to one.

    It is for `fs.rules.PushPull`, on graphs that point one way. Pu, Shi, Xu and Nedic 2018 (arXiv:1810.06653); Xin and
    Khan 2018 (arXiv:1803.02503).

    Args:
        topology: who talks to whom: a name, an `fs.Topology` of any kind, or an `fs.Schedule`. R and C are its W where
            W is such a matrix; otherwise they have the same edges with equal weights, see `fs.topology.row_stochastic`
            and `fs.topology.column_stochastic`.
        push: the graph of C, if it differs from `topology`.
        consensus_step: gamma, in [0, 1], of both.

    Raises:
        ValueError: gamma is out of range, or something is no topology.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(),
        ...     rule=fs.rules.PushPull(),
        ...     communicator=fs.comm.PushPull("directed-ring"),
        ... )
    """

    topology: Schedule | str
    push: Schedule | str | None = None
    consensus_step: float = 1.0

    hyperparameters = Communicator.hyperparameters

    def __post_init__(self) -> None:
        check_topology(self.topology)
        if self.push is not None:
            check_topology(self.push)
        check_consensus_step(self.consensus_step)

    @property
    def defaults(self) -> dict[str, Any]:
        """Values of the entries of the parameter groups."""
        return {STEPS_DONE.name: 0} if is_drawn(self.topology) else {}

    def connect(
        self, leading: int | None, placement: Placement | None = None
    ) -> PushPullGossip | RankGossip:
        """The communicator for an optimizer's parameters.

        Args:
            leading: first dimension of the parameters; None if they have no common one.
            placement: which process holds which agents, which then use W for R and for C; None if all are here.

        Raises:
            ValueError: the parameters are not stacked, a name is unknown, the rounds of `push` do not go with those of
                `topology`, directed graphs have `fs.Faults`, or agents fail along one of two graphs alone; over
                processes, `push` is given.
        """
        if placement is not None:
            graph = resolve(self.topology, placement.all_agents)
            if self.push is not None:
                raise ValueError(
                    f"agents on several ranks need one graph, got {graph!r} and push={self.push!r}"
                )
            stacked = is_stack(leading, placement)
            return RankGossip(graph, placement, self.consensus_step, stacked=stacked)
        if leading is None:
            raise ValueError(NOT_STACKED)
        pulled = resolve(self.topology, leading)
        pushed = pulled if self.push is None else resolve(self.push, leading)
        return PushPullGossip(
            row_stochastic(pulled), column_stochastic(pushed), self.consensus_step
        )


class PushPullGossip(StackedGossip):
    """Mixes by R, and rows that are to keep their sum by C.

    Args:
        pull, push: the graphs of R and of C.
        consensus_step: gamma, folded into both.

    Raises:
        ValueError: gamma outside [0, 1], rounds that do not go together, agents that may be down along one of the two.
    """

    pushes = True

    def __init__(self, pull: Schedule, push: Schedule, consensus_step: float = 1.0) -> None:
        changing = [not isinstance(graph, Topology) for graph in (pull, push)]
        drawn = [graph.period is None for graph in (pull, push)]
        if len(set(changing)) > 1 or len(set(drawn)) > 1:
            raise ValueError(
                f"topology and push must both stay, both have a period or both be drawn, got {pull!r} and {push!r}"
            )
        if pull is not push and any(isinstance(g, Faulty) and g.loses_agents for g in (pull, push)):
            raise ValueError(
                "an agent that is down must be so along both matrices: with faults of agents topology is that of push, "
                f"too, got {pull!r} and {push!r}"
            )
        super().__init__(pull, consensus_step)
        # sums of columns are exact where rows do not sum to one
        columns = True if kind_of(push) == SUMS else None
        self._push = StackedGossip(push, consensus_step, columns=columns)

    def pushed(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        meetings = self._push.meetings_like(exchange.meetings, x.device)
        now = replace(exchange, nbytes=0, meetings=meetings)
        mixed = self._push.mix(x, now)
        exchange.nbytes = exchange.nbytes + now.nbytes
        return mixed
