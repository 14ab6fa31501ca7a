"""A mixing matrix of pairs that average with each other."""

from collections.abc import Iterable

import torch

from fastsaddle.graphs.mixing_matrix import Topology


def of_pairs(name: str, agents: int, pairs: Iterable[tuple[int, int]]) -> Topology:
    """W with 1/2 on both agents of each pair, in pairs that share nobody; whoever is in none stays alone."""
    W = torch.eye(agents, dtype=torch.float64, device="cpu")
    i, j = torch.tensor([*pairs], dtype=torch.int64, device="cpu").reshape(-1, 2).T
    W[i, i] = W[j, j] = W[i, j] = W[j, i] = 0.5
    return Topology(name, W)
