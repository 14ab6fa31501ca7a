"""Gossip along a graph, as an optimizer's `communicator=` names it."""

from dataclasses import dataclass
from typing import Any, Literal

from fastsaddle.comm.base import NOT_STACKED, Communicator
from fastsaddle.comm.choco import Choco, CompressedGossip, as_choco
from fastsaddle.comm.choco_over_ranks import CompressedRankGossip
from fastsaddle.comm.lists import check_consensus_step
from fastsaddle.comm.over_ranks import RankGossip
from fastsaddle.comm.period import check_steps
from fastsaddle.comm.push_sum import PushSumGossip
from fastsaddle.comm.push_sum_over_ranks import PushSumRankGossip
from fastsaddle.comm.stacked import STEPS_DONE, StackedGossip
from fastsaddle.compressors.base import Compressor
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.graphs.topology import check_topology, is_drawn, resolve
from fastsaddle.ranks.placement import Placement, is_stack


@dataclass(frozen=True)
class Gossip:
    """Gossip along a graph: x_i = h_i + gamma (sum_j W_ij h_j - h_i).

    h is what a step makes before it mixes. Xiao and Boyd 2004; in decentralized SGD by Lian et al. 2017
    (arXiv:1705.09056). Several local steps between gossips, and several gossips in a row, are those of DFedAvg and
    DFedSAM-MGS (Shi et al. 2023, arXiv:2302.04083).

    Args:
        topology: who talks to whom: a name such as "ring" (the number of agents comes from the parameters), an
            `fs.Topology`, or an `fs.Schedule` of graphs that change, whose `at(t)` is the graph of gossip t, counted
            from 0. None is a single agent with ordinary parameters.
        compressor: compresses messages: an `fs.compressors.Compressor` or an `fs.Choco`. None, like
            `fs.compressors.Identity()`, sends whole rows.
        consensus_step: gamma, in [0, 1].
        every: steps from one gossip to the next, >= 1; in between agents take only local steps.
        rounds: number of gossips in a row, >= 1; with a schedule they have successive graphs.
        dense: whether to multiply by W as a dense matrix, whose sums have a tolerance; "auto": from degree 64 on.
        push_sum: push-sum along a column-stochastic W (Kempe, Dobra and Gehrke 2003; in SGD Assran et al. 2019,
            arXiv:1811.10792): sums x and weights w are mixed, and the models are z = x / w. It is for
            `fs.rules.Momentum` without a compressor, and adds the state `push_weight` (w), float64.

    Raises:
        ValueError: gamma is out of range, `every` or `rounds` is below 1, something is no topology or no compressor,
            another `dense`, or push_sum with a compressor.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(stack.parameters(), communicator=fs.comm.Gossip("ring", every=2))
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        0
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        128
    """

    topology: Schedule | str | None
    compressor: Compressor | Choco | None = None
    consensus_step: float = 1.0
    every: int = 1
    rounds: int = 1
    dense: bool | Literal["auto"] = "auto"
    push_sum: bool = False

    hyperparameters = Communicator.hyperparameters

    def __post_init__(self) -> None:
        if self.topology is not None:
            check_topology(self.topology)
        check_consensus_step(self.consensus_step)
        check_steps("every", self.every)
        check_steps("rounds", self.rounds)
        if self.dense not in (True, False, "auto"):
            raise ValueError(f'dense must be True, False or "auto", got {self.dense!r}')
        choco = as_choco(self.compressor)
        if self.push_sum and choco != as_choco(None):
            raise ValueError(f"push_sum=True sends rows whole, got compressor {self.compressor!r}")

    @property
    def defaults(self) -> dict[str, Any]:
        """Values of the entries of the parameter groups."""
        on_host = self.every > 1 or (self.topology is not None and is_drawn(self.topology))
        return {STEPS_DONE.name: 0} if on_host else {}

    def connect(self, leading: int | None, placement: Placement | None = None) -> StackedGossip:
        """The communicator for an optimizer's parameters.

        Args:
            leading: first dimension of the parameters; None if they have no common one.
            placement: which process holds which agents; None if all are here.

        Raises:
            ValueError: the parameters are not stacked, or the name of a topology is unknown.
        """
        choco = as_choco(self.compressor)
        often = (self.every, self.rounds)
        if placement is not None:
            stacked = is_stack(leading, placement)
            graph = self._graph(placement.all_agents)
            if choco == as_choco(None):
                apart = PushSumRankGossip if self.push_sum else RankGossip
                return apart(graph, placement, self.consensus_step, *often, stacked=stacked)
            gamma = self.consensus_step
            return CompressedRankGossip(graph, placement, gamma, choco, *often, stacked=stacked)
        make = PushSumGossip if self.push_sum else StackedGossip
        if self.topology is None:
            return make(None, self.consensus_step, *often, self.dense)
        if leading is None:
            raise ValueError(NOT_STACKED)
        graph = self._graph(leading)
        if choco == as_choco(None):
            return make(graph, self.consensus_step, *often, self.dense)
        return CompressedGossip(graph, self.consensus_step, choco, *often)

    def _graph(self, agents: int) -> Schedule:
        graph = self.topology
        if graph is None:
            raise ValueError("agents on several ranks need a topology, got None")
        if not isinstance(graph, str) and graph.agents != agents:
            raise ValueError(
                f"{graph.name} has {graph.agents} agents, but {agents} are needed for parameters "
                f"[{agents}, ...]: fs.AgentStack(model, {graph.agents}) makes {graph.agents} copies of a model"
            )
        return resolve(graph, agents)
