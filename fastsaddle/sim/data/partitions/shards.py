"""Sorted by class, cut into shards, a few shards to each agent."""

import numpy as np

from fastsaddle.sim.data.partitions._base import generator


def shards(labels: np.ndarray, agents: int, seed: int, per_agent: int = 2) -> list[np.ndarray]:
    """Indices of every agent's samples: disjoint, together all of them.

    Samples are sorted by label (equal labels in file order) and cut into `agents * per_agent`
    contiguous shards, whose sizes differ by at most one; every agent is dealt `per_agent` random
    ones. McMahan, Moore, Ramage, Hampson, Aguera y Arcas 2017 (arXiv:1602.05629), section 3, with
    200 shards for 100 clients.

    `labels` is `[samples]`, integer. Raises ValueError for fewer samples than shards.
    """
    pieces = agents * per_agent
    if agents < 1 or per_agent < 1 or pieces > len(labels):
        raise ValueError(
            f"agents and shards an agent must be >= 1 and their product at most the {len(labels)} "
            f"training samples, got {agents} agents with {per_agent} shards"
        )
    cut = np.array_split(np.argsort(labels, kind="stable"), pieces)
    dealt = generator(seed).permutation(pieces).reshape(agents, per_agent)
    return [np.concatenate([cut[piece] for piece in mine]) for mine in dealt]
