"""What a rule asks of the graphs that agents talk along."""

import warnings
from dataclasses import dataclass
from typing import Literal

import torch

from fastsaddle.graphs.faults import Faulty
from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.graphs.schedule import Schedule, graph_of, rounds_of
from fastsaddle.graphs.spectrum import extrapolated_growth

# of W, the strongest first
KINDS = "symmetric doubly stochastic", "doubly stochastic"
SUMS, AGREEMENT = "column-stochastic", "row-stochastic"
# what is to be done about a W that keeps sums alone, or no more than agreement
REMEDIES = {
    SUMS: "push_sum=True keeps the mean along it, of DSGD, DSGDm, DSADDLe, QGM and QSADDLe",
    AGREEMENT: "gossip along it moves the mean; with columns that sum to one push_sum=True keeps it, and "
    "fs.PushPull takes either",
}


@dataclass(frozen=True)
class GraphNeeds:
    """Which graphs a rule takes. By default W must be symmetric and doubly stochastic.

    Args:
        symmetric: whether W must be symmetric in every round; if not, doubly stochastic is enough.
        tree: whether the graph must be a tree that never changes.
        least_eigenvalue: all eigenvalues of W, with the consensus step folded in, must be above it, and one that equals
            it gives a warning. None asks for nothing. If graphs change, differences must not grow by extrapolation
            instead.
        faults: which of `fs.Faults` the rule survives: "all", only "links" (no agent may be down), or "none".
    """

    symmetric: bool = True
    tree: bool = False
    least_eigenvalue: float | None = None
    faults: Literal["all", "links", "none"] = "all"

    def check(
        self,
        schedule: Schedule | None,
        consensus_step: float,
        who: str,
        stacklevel: int = 2,
        weaker: tuple[str, ...] = (),
    ) -> None:
        """Raise an error for graphs that do not do, and warn of one that hardly does.

        It looks at each round of a period, or at the first 1,000, and names the first that fails. A schedule that has
        its own `kind` is believed.

        Args:
            schedule: the graph; None is accepted.
            consensus_step: gamma.
            who: whose needs these are, for the message.
            stacklevel: as for `warnings.warn`.
            weaker: kinds of W that do as well.

        Raises:
            ValueError: a graph does not do.
        """
        if schedule is None:
            return
        if isinstance(schedule, Faulty):
            self._check_faults(schedule, who, weaker)
        if self.tree and not isinstance(schedule, Topology):
            raise ValueError(f"{who} needs a tree that stays, got {schedule!r}")
        self._check_kind(schedule, who, weaker)
        if not isinstance(schedule, Topology):
            if self.least_eigenvalue is not None:
                self._check_growth(schedule, consensus_step, who)
            return
        if self.tree and schedule.edges != schedule.agents - 1:
            raise ValueError(
                f"{who} needs a tree, {schedule.agents - 1} edges among {schedule.agents} agents, "
                f"got {schedule} with {schedule.edges}: chain or binary_tree"
            )
        if self.least_eigenvalue is not None:
            self._check_eigenvalues(schedule, consensus_step, who, stacklevel + 1)

    def _check_faults(self, schedule: Faulty, who: str, weaker: tuple[str, ...]) -> None:
        if self.faults == "none":
            raise ValueError(
                f"{who} needs each step what the one before moved along the same links: it takes no faults, "
                f"got {schedule!r}"
            )
        if self.faults == "links" and schedule.loses_agents:
            raise ValueError(
                f"{who} compares its models with those of the step before: it takes faults of links alone, "
                f"got {schedule!r} whose agents may be down"
            )
        if schedule.kind not in (*KINDS, *weaker):
            raise ValueError(
                f"{who} needs a doubly stochastic mixing matrix, but where links of a directed graph fall only the "
                f"sums of columns can be kept, for push-sum: got {schedule!r}; take links that go both ways, such as "
                "one-peer-exponential:undirected, or push_sum=True"
            )

    def _check_kind(self, schedule: Schedule, who: str, weaker: tuple[str, ...]) -> None:
        allowed = (*(KINDS[:1] if self.symmetric else KINDS), *weaker)
        if getattr(schedule, "kind", None) in allowed:
            return
        kind = weaker[0] if weaker else "symmetric" if self.symmetric else "doubly stochastic"
        for t in rounds_of(schedule):
            found = graph_of(schedule, t).kind
            if found not in allowed:
                remedy = "" if found not in REMEDIES else f": {REMEDIES[found]}"
                raise ValueError(
                    f"{who} needs a {kind} mixing matrix, {_which(schedule, t)} is {found}{remedy}"
                )

    def _check_growth(self, schedule: Schedule, consensus_step: float, who: str) -> None:
        growth = extrapolated_growth(schedule, consensus_step)
        if growth > 1 + 1e-9:
            raise ValueError(
                f"{who} gives back in each step what gossip moved, and on {schedule!r} that grows by "
                f"{growth:.4f} a round: consensus_step=0.5 mixes by (W + I) / 2"
            )

    def _check_eigenvalues(
        self, graph: Topology, consensus_step: float, who: str, stacklevel: int
    ) -> None:
        bound = self.least_eigenvalue
        assert bound is not None
        least = 1 - consensus_step + consensus_step * float(torch.linalg.eigvalsh(graph.W)[0])
        said = f"-1/{round(-1 / bound)}" if bound < 0 else f"{bound:g}"
        remedy = "consensus_step=0.5 mixes by (W + I) / 2"
        if least < bound - 1e-9:
            raise ValueError(
                f"{who} needs a mixing matrix whose eigenvalues are above {said}, "
                f"got {least:.4f} for {graph}: {remedy}"
            )
        if least < bound + 1e-9:
            warnings.warn(
                f"{who} may oscillate: {graph} has the eigenvalue {said}; {remedy}",
                RuntimeWarning,
                stacklevel=stacklevel,
            )


def check_weights(schedule: Schedule | None, consensus_step: float, who: str) -> None:
    """Raise ValueError where push-sum would leave an agent no weight to divide by."""
    if schedule is None or consensus_step < 1:
        return
    for t in rounds_of(schedule):
        empty = (graph_of(schedule, t).W.sum(1) == 0).nonzero()
        if len(empty):
            raise ValueError(
                f"{who} with push_sum=True needs agents that keep or hear something, but row {int(empty[0])} of "
                f"{_which(schedule, t)} is zero"
            )


def _which(schedule: Schedule, round: int) -> str:
    """A round's graph in messages."""
    return (
        f"{schedule!r}"
        if isinstance(schedule, Topology)
        else f"that of round {round} of {schedule!r}"
    )
