"""Every agent gets an equal random part of all samples."""

import numpy as np

from fastsaddle.sim.data.partitions._base import check_agents, generator


def iid(labels: np.ndarray, agents: int, seed: int) -> list[np.ndarray]:
    """A split at random, without regard to labels.

    Args:
        labels: `[samples]`, integer; only its length matters.
        agents: how many parts, at least one and at most as many as samples.
        seed: of the draws.

    Returns:
        For each agent the indices of its samples, int64: disjoint, together all of them, sizes equal up to one.

    Raises:
        ValueError: fewer samples than agents.

    Example:
        >>> import numpy as np
        >>> import fastsaddle as fs
        >>> labels = np.arange(100) % 10
        >>> parts = fs.sim.data.iid(labels, agents=5, seed=0)
        >>> sum(map(len, parts))
        100
    """
    check_agents(labels, agents)
    return list(np.array_split(generator(seed).permutation(len(labels)), agents))
