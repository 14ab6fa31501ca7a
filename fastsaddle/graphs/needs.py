"""What a rule asks of the graph that agents talk along."""

import warnings
from dataclasses import dataclass

import torch

from fastsaddle.graphs.topology import Topology


@dataclass(frozen=True)
class GraphNeeds:
    """What graphs a rule takes.

    Attributes:
        symmetric: W must be symmetric.
        tree: the graph must have no cycle.
        least_eigenvalue: all eigenvalues of W, the consensus step folded in, must be above it; one that is equal is
            warned of. None asks nothing.
    """

    symmetric: bool = True
    tree: bool = False
    least_eigenvalue: float | None = None

    def check(
        self, graph: Topology | None, consensus_step: float, who: str, stacklevel: int = 2
    ) -> None:
        """Raise ValueError, naming `who` asks, for a graph that does not do; warn of one that hardly does."""
        if graph is None:
            return
        if self.symmetric and not torch.allclose(graph.W, graph.W.T, rtol=0, atol=1e-6):
            raise ValueError(f"{who} needs a symmetric mixing matrix, {graph} is not")
        if self.tree and graph.edges != graph.agents - 1:
            raise ValueError(
                f"{who} needs a tree, {graph.agents - 1} edges among {graph.agents} agents, "
                f"got {graph} with {graph.edges}: chain or binary_tree"
            )
        if self.least_eigenvalue is not None:
            self._check_eigenvalues(graph, consensus_step, who, stacklevel + 1)

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
