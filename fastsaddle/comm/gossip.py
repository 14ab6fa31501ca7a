"""Gossip along a graph, as an optimizer's `communicator=` names it."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fastsaddle.comm.base import NOT_STACKED
from fastsaddle.comm.choco import Choco, CompressedGossip, as_choco
from fastsaddle.comm.lists import check_consensus_step
from fastsaddle.comm.period import check_steps
from fastsaddle.comm.stacked import STEPS_DONE, StackedGossip
from fastsaddle.compressors.base import Compressor
from fastsaddle.graphs.topology import Topology, check_topology, resolve


@dataclass(frozen=True)
class Gossip:
    """x_i = h_i + gamma (sum_j W_ij h_j - h_i), every `every` steps, `rounds` times in a row.

    Xiao and Boyd 2004; in decentralized SGD by Lian et al. 2017 (arXiv:1705.09056). Several local steps between
    gossips, and several gossips in a row, are DFedAvg's and DFedSAM-MGS's (Shi et al. 2023, arXiv:2302.04083).

    Args:
        topology: who talks to whom: a name such as "ring" (the number of agents comes from the parameters), a
            `Topology`, or None for one agent on ordinary parameters.
        compressor: what messages are compressed with, a `Compressor` or an `fs.Choco`; None sends rows whole, and so
            does `Identity()`.
        consensus_step: gamma, in [0, 1].
        every: steps from one gossip to the next, >= 1; the agents take local steps alone in between.
        rounds: gossips in a row where there is one, >= 1.
        dense: whether W is multiplied as a dense matrix, whose sums have a tolerance; "auto": from degree 64 on.

    Raises:
        ValueError: gamma out of range, `every` or `rounds` below 1, something that is no compressor, another `dense`.
    """

    topology: Topology | str | None
    compressor: Compressor | Choco | None = None
    consensus_step: float = 1.0
    every: int = 1
    rounds: int = 1
    dense: bool | Literal["auto"] = "auto"

    hyperparameters: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        if self.topology is not None:
            check_topology(self.topology)
        check_consensus_step(self.consensus_step)
        check_steps("every", self.every)
        check_steps("rounds", self.rounds)
        if self.dense not in (True, False, "auto"):
            raise ValueError(f'dense must be True, False or "auto", got {self.dense!r}')
        as_choco(self.compressor)

    @property
    def defaults(self) -> dict[str, Any]:
        return {} if self.every == 1 else {STEPS_DONE.name: 0}

    def connect(self, leading: int | None) -> StackedGossip:
        """The communicator for parameters with `leading` rows, None where these have no common number of them.

        Raises:
            ValueError: parameters that cannot be stacked, or an unknown name.
        """
        graph = self.topology
        if graph is not None:
            if leading is None:
                raise ValueError(NOT_STACKED)
            if isinstance(graph, Topology) and graph.agents != leading:
                raise ValueError(
                    f"{graph.name} has {graph.agents} agents, but {leading} are needed for parameters "
                    f"[{leading}, ...]: fs.AgentStack(model, {graph.agents}) makes {graph.agents} copies of a model"
                )
            graph = resolve(graph, leading)
        choco = as_choco(self.compressor)
        if graph is None or choco == as_choco(None):
            return StackedGossip(graph, self.consensus_step, self.every, self.rounds, self.dense)
        return CompressedGossip(graph, self.consensus_step, choco, self.every, self.rounds)
