"""A mixing matrix of links that point so many places on."""

from collections.abc import Iterable

import torch

from fastsaddle.graphs.mixing_matrix import Topology


def of_hops(name: str, agents: int, hops: Iterable[int]) -> Topology:
    """W by which each agent hears those so many places before it, in equal parts with itself: doubly stochastic."""
    own = torch.eye(agents, dtype=torch.float64, device="cpu")
    parts = [own, *(own.roll(hop, 0) for hop in hops)]
    return Topology(name, torch.stack(parts).sum(0) / len(parts))
