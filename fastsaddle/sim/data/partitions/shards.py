"""Sorted by class, cut into shards, a few shards to each agent."""

import numpy as np

from fastsaddle.sim.data.partitions._base import generator


def shards(labels: np.ndarray, agents: int, seed: int, per_agent: int = 2) -> list[np.ndarray]:
    """A split into shards of the samples sorted by label, of which every agent is dealt some.

    Equal labels stay in file order. The `agents * per_agent` shards are contiguous, and their sizes differ by at most
    one. McMahan, Moore, Ramage, Hampson, Aguera y Arcas 2017 (arXiv:1602.05629), section 3, with 200 shards for 100
    clients.

    Args:
        labels: `[samples]`, integer.
        agents: how many parts, at least one and at most as many as samples.
        seed: of the draws.
        per_agent: shards that an agent is dealt.

    Returns:
        For each agent the indices of its samples, int64: disjoint, together all of them.

    Raises:
        ValueError: fewer samples than shards, or no agents or shards.

    Example:
        >>> import numpy as np
        >>> import fastsaddle as fs
        >>> labels = np.arange(100) % 10
        >>> parts = fs.sim.data.shards(labels, agents=5, seed=0, per_agent=2)
        >>> sum(map(len, parts))
        100
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
