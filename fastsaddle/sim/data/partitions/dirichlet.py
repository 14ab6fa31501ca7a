"""Class mixtures from a Dirichlet distribution, cut again into parts of equal size."""

import numpy as np

from fastsaddle.sim.data.partitions._dirichlet import drawn_lists


def dirichlet(labels: np.ndarray, agents: int, seed: int, alpha: float) -> list[np.ndarray]:
    """Indices of every agent's samples: disjoint, together all of them, sizes equal up to one.

    The lists of `dirichlet_raw` are concatenated and cut into `agents` equal blocks, so a block may
    hold a few samples drawn for its neighbors in the list; as in the public code of Lin et al. 2021
    (Quasi-Global Momentum, arXiv:2102.04761). `alpha` is the concentration: small gives an agent
    few classes.

    `labels` is `[samples]`, integer. Raises ValueError for alpha <= 0, for fewer samples than
    agents, and when no acceptable draw turns up.
    """
    lists = drawn_lists(labels, agents, seed, alpha)
    return list(np.array_split(np.concatenate(lists), agents))
