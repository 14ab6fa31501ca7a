"""Class mixtures from a Dirichlet distribution, cut again into parts of equal size."""

import numpy as np

from fastsaddle.sim.data.partitions._dirichlet import drawn_lists


def dirichlet(labels: np.ndarray, agents: int, seed: int, alpha: float) -> list[np.ndarray]:
    """A split by class mixtures from a Dirichlet distribution, cut again into parts of equal size.

    The lists of `dirichlet_raw` are concatenated and cut into `agents` equal blocks, so a block may hold a few samples
    drawn for its neighbors in the list; as in the public code of Lin et al. 2021 (Quasi-Global Momentum,
    arXiv:2102.04761).

    Args:
        labels: `[samples]`, integer.
        agents: how many parts, at least one and at most as many as samples.
        seed: of the draws.
        alpha: concentration, > 0: small gives an agent few classes.

    Returns:
        For each agent the indices of its samples, int64: disjoint, together all of them, sizes equal up to one.

    Raises:
        ValueError: alpha <= 0, fewer samples than agents, a seed >= 2^32, or no acceptable draw turns up.

    Example:
        >>> import numpy as np
        >>> import fastsaddle as fs
        >>> labels = np.arange(100) % 10
        >>> parts = fs.sim.data.dirichlet(labels, agents=5, seed=0, alpha=0.1)
        >>> sum(map(len, parts))
        100
    """
    lists = drawn_lists(labels, agents, seed, alpha)
    return list(np.array_split(np.concatenate(lists), agents))
