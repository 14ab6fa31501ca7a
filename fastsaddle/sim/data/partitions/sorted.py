"""Sorted by class and cut into equal blocks: the most uneven split there is."""

from collections import deque

import numpy as np

from fastsaddle.sim.data.partitions._base import check_agents

FIRST_AGENTS = 10


def sorted(labels: np.ndarray, agents: int) -> list[np.ndarray]:
    """A split of the samples sorted by label into contiguous blocks; nothing is drawn.

    Equal labels stay in file order. Up to 10 agents take the blocks in order: with ten balanced classes 5 agents have 2
    classes each, 10 have one. With more than 10 agents the first ten each take the next block and put the one after it
    behind all others; the rest take what is left in order. So agents i and i + 10 share class i where 20 agents meet
    ten balanced classes. This is `skew=1` of the public code of Aketi, Kodge, Roy 2022 (Neighborhood Gradient
    Clustering, arXiv:2209.14390), which drops the samples of an uneven division; here blocks may differ by one sample
    instead.

    Args:
        labels: `[samples]`, integer.
        agents: how many parts, at least one and at most as many as samples.

    Returns:
        For each agent the indices of its samples, int64: disjoint, together all of them, sizes equal up to one.

    Raises:
        ValueError: fewer samples than agents.

    Example:
        >>> import numpy as np
        >>> import fastsaddle as fs
        >>> labels = np.arange(100) % 10
        >>> parts = fs.sim.data.sorted(labels, agents=5)
        >>> sum(map(len, parts))
        100
    """
    check_agents(labels, agents)
    waiting = deque(np.array_split(np.argsort(labels, kind="stable"), agents))
    parts = []
    for agent in range(agents):
        parts.append(waiting.popleft())
        if agents > FIRST_AGENTS and agent < FIRST_AGENTS:
            waiting.rotate(-1)
    return parts
