"""Gossip along a graph, as an optimizer's `communicator=` names it."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fastsaddle.comm.base import NOT_STACKED
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
    """x_i = h_i + gamma (sum_j W_ij h_j - h_i), every `every` steps, `rounds` times in a row.

    Xiao and Boyd 2004; in decentralized SGD by Lian et al. 2017 (arXiv:1705.09056). Several local steps between
    gossips, and several gossips in a row, are DFedAvg's and DFedSAM-MGS's (Shi et al. 2023, arXiv:2302.04083).

    Args:
        topology: who talks to whom: a name such as "ring" (the number of agents comes from the parameters), a
            `Topology`, a `Schedule` of graphs that change, of which gossip t, counted from 0, has `at(t)`, or None for
            one agent on ordinary parameters.
        compressor: what messages are compressed with, a `Compressor` or an `fs.Choco`; None sends rows whole, and so
            does `Identity()`.
        consensus_step: gamma, in [0, 1].
        every: steps from one gossip to the next, >= 1; the agents take local steps alone in between.
        rounds: gossips in a row where there is one, >= 1; of a schedule they have successive graphs.
        dense: whether W is multiplied as a dense matrix, whose sums have a tolerance; "auto": from degree 64 on.
        push_sum: mix sums x = w z and weights w by a column-stochastic W, z = x / w being the models (push-sum, Kempe,
            Dobra and Gehrke 2003; in SGD by Assran et al. 2019, arXiv:1811.10792). For `fs.rules.Momentum`, without a
            compressor. State: `push_weight`, w, float64.

    Raises:
        ValueError: gamma out of range, `every` or `rounds` below 1, something that is no compressor, another `dense`,
            push_sum with a compressor.
    """

    topology: Schedule | str | None
    compressor: Compressor | Choco | None = None
    consensus_step: float = 1.0
    every: int = 1
    rounds: int = 1
    dense: bool | Literal["auto"] = "auto"
    push_sum: bool = False

    hyperparameters: ClassVar[dict[str, Any]] = {}

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
        on_host = self.every > 1 or (self.topology is not None and is_drawn(self.topology))
        return {STEPS_DONE.name: 0} if on_host else {}

    def connect(self, leading: int | None, placement: Placement | None = None) -> StackedGossip:
        """The communicator for parameters with `leading` rows, None where these have no common number of them.

        Args:
            leading: the parameters' first dimension.
            placement: who holds which agents, where they are in several processes.

        Raises:
            ValueError: parameters that cannot be stacked, or an unknown name.
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
