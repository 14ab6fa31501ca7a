"""Random pairs: in each round every agent averages with one other."""

import torch

from fastsaddle.graphs import draws
from fastsaddle.graphs.mixing_matrix import Topology, check_sizes
from fastsaddle.graphs.pairs import of_pairs
from fastsaddle.graphs.schedule import Drawn


class Matchings(Drawn):
    """See `matchings`."""

    def __init__(self, n: int, seed: int) -> None:
        check_sizes(n=n)
        draws.check_seed(seed)
        self.seed = int(seed)
        # one of the others, each as likely; of an odd number one agent is left alone
        together = 0.5 / (n if n % 2 else max(n - 1, 1))
        mean = torch.full((n, n), together, dtype=torch.float64, device="cpu")
        mean.fill_diagonal_(1 - (n - 1) * together)
        name = f"matchings:{seed}"
        super().__init__(name, Topology(name, mean), "symmetric doubly stochastic", min(1, n - 1))

    def draw(self, round: int) -> Topology:
        order = draws.order(self.agents, self.seed, round, draws.MATCHINGS)
        pairs = zip(order[::2], order[1::2], strict=False)
        return of_pairs(self.name, self.agents, pairs)


def matchings(n: int, seed: int = 0) -> Matchings:
    """Random pairs: each round draws a matching of all agents, and every matching is equally likely.

    The two agents of a pair average, W_ii = W_ij = 1/2; with an odd number of agents one stays alone. This is
    randomized gossip (Boyd et al. 2006, doi:10.1109/TIT.2006.874516) with all pairs at once. Draws are by (seed,
    round); it has no period.

    Args:
        n: number of agents, >= 1.
        seed: seed of the draws, from 0 to 2^63 - 1.

    Raises:
        ValueError: n is below 1, or the seed is out of range.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.matchings(8, seed=3).at(0).edges
        4
    """
    return Matchings(n, seed)
