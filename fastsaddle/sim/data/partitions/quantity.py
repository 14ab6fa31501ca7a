"""The same mixture of classes for all agents, but numbers of samples from a Dirichlet draw."""

import numpy as np

from fastsaddle.sim.data.partitions._base import check_agents, check_alpha, generator


def quantity(labels: np.ndarray, agents: int, seed: int, alpha: float) -> list[np.ndarray]:
    """Indices of every agent's samples: disjoint, together all of them, at least one an agent.

    Every agent gets one random sample, and the others are divided by proportions from
    Dirichlet(alpha) over the agents: the quantity skew of Li, Diao, Chen, He 2021 (NIID-Bench,
    arXiv:2102.02079). `alpha` is the concentration: small gives a few agents nearly
    all.

    `labels` is `[samples]`; only its length matters. Raises ValueError for alpha <= 0, for an
    alpha so extreme that no proportions can be drawn, and for fewer samples than agents.
    """
    check_alpha(alpha)
    check_agents(labels, agents)
    random = generator(seed)
    proportions = random.dirichlet(np.full(agents, alpha))
    if not np.isfinite(proportions).all():
        raise ValueError(
            f"alpha must be moderate enough to draw from Dirichlet(alpha), got {alpha}"
        )
    spare = len(labels) - agents
    ends = np.minimum(np.cumsum(proportions) * spare, spare).astype(np.int64)
    cuts = ends[:-1] + np.arange(1, agents)
    return np.split(random.permutation(len(labels)), cuts)
