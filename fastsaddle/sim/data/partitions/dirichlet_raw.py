"""Class mixtures from a Dirichlet distribution, parts of the sizes that the draw gave."""

import numpy as np

from fastsaddle.sim.data.partitions._dirichlet import drawn_lists


def dirichlet_raw(labels: np.ndarray, agents: int, seed: int, alpha: float) -> list[np.ndarray]:
    """Indices of every agent's samples: disjoint, together all of them, sizes as drawn.

    Shuffled samples are dealt to groups of at most 10 agents; inside a group each class is divided
    by Dirichlet(alpha) proportions, redrawn until every agent has at least half an equal share, as
    Vogels et al. 2021 (RelaySum, arXiv:2110.04175) keep them in their public code.

    `labels` is `[samples]`, integer. Raises ValueError for alpha <= 0, for fewer samples than
    agents, when no acceptable draw turns up, and when one leaves an agent without samples.
    """
    parts = drawn_lists(labels, agents, seed, alpha)
    empty = [agent for agent, part in enumerate(parts) if len(part) == 0]
    if empty:
        raise ValueError(
            f"every agent needs at least one sample, agents {empty} have none: "
            "use a larger alpha or fewer agents"
        )
    return parts
