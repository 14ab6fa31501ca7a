"""Class mixtures from a Dirichlet distribution, parts of the sizes that the draw gave."""

import numpy as np

from fastsaddle.sim.data.partitions._dirichlet import drawn_lists


def dirichlet_raw(labels: np.ndarray, agents: int, seed: int, alpha: float) -> list[np.ndarray]:
    """A split by class mixtures from a Dirichlet distribution, in parts of the sizes that were drawn.

    Shuffled samples are dealt to groups of at most 10 agents; inside a group each class is divided by Dirichlet(alpha)
    proportions, redrawn until every agent has at least half an equal share, as Vogels et al. 2021 (RelaySum,
    arXiv:2110.04175) keep them in their public code.

    Args:
        labels: `[samples]`, integer.
        agents: how many parts, at least one and at most as many as samples.
        seed: of the draws.
        alpha: concentration, > 0: small gives an agent few classes.

    Returns:
        For each agent the indices of its samples, int64: disjoint, together all of them.

    Raises:
        ValueError: alpha <= 0, fewer samples than agents, a seed >= 2^32, no acceptable draw turns up, or one leaves an
            agent without samples.

    Example:
        >>> import numpy as np
        >>> import fastsaddle as fs
        >>> labels = np.arange(100) % 10
        >>> parts = fs.sim.data.dirichlet_raw(labels, agents=5, seed=0, alpha=1.0)
        >>> sum(map(len, parts))
        100
    """
    parts = drawn_lists(labels, agents, seed, alpha)
    empty = [agent for agent, part in enumerate(parts) if len(part) == 0]
    if empty:
        raise ValueError(
            f"every agent needs at least one sample, agents {empty} have none: "
            "use a larger alpha or fewer agents"
        )
    return parts
