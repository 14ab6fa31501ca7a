"""EquiDyn: one peer a round, at an offset that is drawn and the same for all."""

import torch

from fastsaddle.graphs import draws
from fastsaddle.graphs.hops import of_hops
from fastsaddle.graphs.mixing_matrix import DOUBLY, SYMMETRIC, Topology, check_sizes
from fastsaddle.graphs.pairs import of_pairs
from fastsaddle.graphs.schedule import Drawn


class EquiDyn(Drawn):
    """See `equi_dyn`."""

    def __init__(self, n: int, seed: int, directed: bool) -> None:
        check_sizes(n=n)
        draws.check_seed(seed)
        self.seed, self.directed = int(seed), directed
        # all turns of a round are as likely as it is
        heard = torch.zeros(n, dtype=torch.float64, device="cpu")
        for hop in range(1, n):
            share = 1.0 if directed else len(_pairs(n, hop, 0)) / n
            heard[hop] += share / (n - 1) / 2
            if not directed:
                heard[n - hop] += share / (n - 1) / 2
        heard[0] = 1 - heard.sum()
        # row i takes heard[hop] of the agent so many places before it
        places = torch.arange(n, device="cpu")
        mean = heard[(places[:, None] - places) % n]
        name = f"equi-dyn:{'' if directed else 'undirected:'}{seed}"
        super().__init__(
            name, Topology(name, mean), DOUBLY if directed else SYMMETRIC, min(1, n - 1)
        )

    def draw(self, round: int) -> Topology:
        n = self.agents
        offset, start = draws.words(2, self.seed, round, draws.OFFSETS).tolist()
        hop = 1 + (offset * (n - 1) >> 32)
        if n == 1:
            return self.union
        if self.directed:
            return of_hops(self.name, n, [hop])
        return of_pairs(self.name, n, _pairs(n, hop, start * n >> 32))


def equi_dyn(n: int, seed: int = 0, directed: bool = True) -> EquiDyn:
    """One peer a round: every agent hears the one `hop` places before it, with `hop` drawn anew each round.

    `hop` is drawn from 1 to n - 1 for all agents together, by (seed, round). Song et al. 2022 (arXiv:2210.07881):
    OD-EquiDyn over all n - 1 offsets, with W = (1 - eta) I + eta A and A_ii = 1/n. Here eta = n / (2 (n - 1)), which
    makes both weights 1/2 and shrinks the mean squared distance to consensus the most: to (n - 2) / (2 (n - 1)) of
    itself in a round, whatever n is. Undirected, it is their OU-EquiDyn: starting from a drawn agent, each pairs with
    the one `hop` places on if both are still free; agents left over stay alone. It has no period.

    Args:
        n: number of agents, >= 1.
        seed: seed of the draws, from 0 to 2^63 - 1.
        directed: True gives a doubly stochastic W, False pairs with a symmetric W.

    Raises:
        ValueError: n is below 1, or the seed is out of range.

    Example:
        >>> import fastsaddle as fs
        >>> graph = fs.topology.equi_dyn(16, seed=1)
        >>> graph.at(0).messages
        16
    """
    return EquiDyn(n, seed, directed)


def _pairs(n: int, hop: int, start: int) -> list[tuple[int, int]]:
    free, found = [True] * n, []
    for place in range(n):
        i = (start + place) % n
        j = (i + hop) % n
        if free[i] and free[j]:
            free[i] = free[j] = False
            found.append((i, j))
    return found
