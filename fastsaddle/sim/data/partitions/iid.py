"""Every agent gets an equal random part of all samples."""

import numpy as np

from fastsaddle.sim.data.partitions._base import check_agents, generator


def iid(labels: np.ndarray, agents: int, seed: int) -> list[np.ndarray]:
    """Indices of every agent's samples: disjoint, together all of them, sizes equal up to one.

    `labels` is `[samples]`; only its length matters. Raises ValueError for fewer samples than
    agents.
    """
    check_agents(labels, agents)
    return list(np.array_split(generator(seed).permutation(len(labels)), agents))
