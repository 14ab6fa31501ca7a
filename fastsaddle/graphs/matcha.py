"""MATCHA: a graph taken apart into matchings, some of which are active in each round."""

import math

import torch

from fastsaddle.graphs import draws
from fastsaddle.graphs.edge_coloring import Pair, matchings_of
from fastsaddle.graphs.mixing_matrix import SYMMETRIC, Topology
from fastsaddle.graphs.schedule import Drawn

# steps of the ascent to the probabilities, and what they are rounded to, as is alpha
STEPS, GRID = 200, 2.0**20


class Matcha(Drawn):
    """See `matcha`.

    Attributes:
        parts: the matchings.
        probabilities: of each to be active in a round, float64.
        alpha: what both ends of an active edge take of each other.
    """

    def __init__(self, graph: Topology, budget: float, seed: int) -> None:
        if not isinstance(graph, Topology) or graph.kind != SYMMETRIC or graph.agents < 2:
            raise ValueError(
                f"graph must be an undirected fs.Topology of two agents or more, got {graph!r}"
            )
        if not isinstance(budget, (int, float)) or not 0 < budget <= 1:
            raise ValueError(f"budget must be in (0, 1], got {budget!r}")
        draws.check_seed(seed)
        self.seed, self.parts = int(seed), matchings_of(graph.neighbors)
        laplacians = torch.stack([_laplacian(graph.agents, pairs) for pairs in self.parts])
        self.probabilities = _probabilities(laplacians, budget)
        degree = max(map(len, graph.neighbors))
        self.alpha = _alpha(laplacians, self.probabilities, 1 / degree)
        chances = self.probabilities[:, None, None]
        whole = torch.eye(graph.agents, dtype=torch.float64, device="cpu")
        mean = whole - self.alpha * (chances * laplacians).sum(0)
        name = f"matcha:{budget:g}:{seed}:{graph.name}"
        super().__init__(name, Topology(name, mean), SYMMETRIC, degree)

    def draw(self, round: int) -> Topology:
        drawn = draws.words(len(self.parts), self.seed, round, draws.MATCHA)
        active = (drawn < self.probabilities * 2.0**32).tolist()
        pairs = [
            p for part, is_active in zip(self.parts, active, strict=True) if is_active for p in part
        ]
        W = torch.eye(self.agents, dtype=torch.float64, device="cpu")
        return Topology(self.name, W - self.alpha * _laplacian(self.agents, pairs))


def matcha(graph: Topology, budget: float, seed: int = 0) -> Matcha:
    """MATCHA: a graph split into matchings, each of which is active in a round with its own probability.

    Wang et al. 2019 (arXiv:1905.09435). The edges are split into at most one matching more than the largest degree
    (Misra and Gries 1992). Matching j is active with probability p_j, drawn by (seed, round), and W = I - alpha times
    the sum of the Laplacians of the active ones. The p_j maximize lambda_2 of the mean Laplacian, given that they sum
    to budget x matchings; a projected ascent of 200 steps finds them to a few thousandths, where the paper solves a
    semidefinite program. alpha makes the mean of W^2 shrink fastest, as in the paper, but is at most one over the
    largest degree, so that W stays non-negative. Both are rounded to multiples of 2^-20. It has no period.

    Args:
        graph: an undirected graph; its weights are not used.
        budget: mean share of the matchings that a round has, in (0, 1]; 1 is the whole graph in every round.
        seed: seed of the draws, from 0 to 2^63 - 1.

    Raises:
        ValueError: the graph is directed or has a single agent, or the budget or the seed is out of range.

    Example:
        >>> import fastsaddle as fs
        >>> graph = fs.topology.matcha(fs.topology.ring(8), budget=0.5)
        >>> graph.union.messages
        16
    """
    return Matcha(graph, budget, seed)


def _laplacian(agents: int, pairs: list[Pair]) -> torch.Tensor:
    found = torch.zeros(agents, agents, dtype=torch.float64, device="cpu")
    i, j = torch.tensor(pairs, dtype=torch.int64, device="cpu").reshape(-1, 2).T
    one = torch.ones(len(pairs), dtype=torch.float64, device="cpu")
    found.index_put_((i, j), -one).index_put_((j, i), -one)
    return found - found.sum(1).diag()


def _probabilities(laplacians: torch.Tensor, budget: float) -> torch.Tensor:
    """Of each matching, the sum at most `budget` of their number, with the greatest lambda_2 of the mean Laplacian."""
    count = len(laplacians)
    now = torch.full((count,), budget, dtype=torch.float64, device="cpu")
    best, greatest = now, -math.inf
    for step in range(STEPS if budget < 1 and count > 1 else 1):
        values, vectors = torch.linalg.eigh((now[:, None, None] * laplacians).sum(0))
        if values[1] > greatest + 1e-12:
            best, greatest = now, float(values[1])
        # eigenvalues that lie close together rise together
        near = values[1:] <= values[1] + 0.3 * values[-1] / (1 + step)
        of = vectors[:, 1:][:, near]
        rise = torch.einsum("nv,jnm,mv->j", of, laplacians, of)
        rise = rise - rise.mean()
        if rise.norm() < 1e-9:
            break
        now = _within(now + 0.3 / (1 + step) ** 0.7 * rise / rise.norm(), budget * count)
    return (best * GRID).round() / GRID


def _within(wanted: torch.Tensor, total: float) -> torch.Tensor:
    """The nearest numbers in [0, 1] with a sum of at most `total`."""
    low, high = 0.0, float(wanted.max())
    if wanted.clamp(0, 1).sum() <= total:
        return wanted.clamp(0, 1)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (wanted - middle).clamp(0, 1).sum() > total else (low, middle)
    return (wanted - high).clamp(0, 1)


def _alpha(laplacians: torch.Tensor, probabilities: torch.Tensor, most: float) -> float:
    """Least |mean of W^T W - J|, a convex function of alpha, for alpha up to `most`."""
    agents, p = laplacians.shape[1], probabilities[:, None, None]
    center = torch.eye(agents, dtype=torch.float64, device="cpu") - 1 / agents
    mean = (p * laplacians).sum(0)
    # a matching's Laplacian squared is twice itself
    square = mean @ mean + 2 * (p * (1 - p) * laplacians).sum(0)

    def left(alpha: float) -> float:
        return float(torch.linalg.eigvalsh(center - 2 * alpha * mean + alpha**2 * square)[-1])

    low, high = 0.0, most
    for _ in range(40):
        third = (high - low) / 3
        if left(low + third) < left(high - third):
            high -= third
        else:
            low += third
    return min(math.floor(most * GRID), round((low + high) / 2 * GRID)) / GRID
