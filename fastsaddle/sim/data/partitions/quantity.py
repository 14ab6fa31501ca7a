"""The same mixture of classes for all agents, but numbers of samples from a Dirichlet draw."""

import numpy as np

from fastsaddle.sim.data.partitions._base import check_agents, check_alpha, generator


def quantity(labels: np.ndarray, agents: int, seed: int, alpha: float) -> list[np.ndarray]:
    """A split into parts of unequal size, without regard to labels.

    Every agent gets one random sample, and the others are divided by proportions from Dirichlet(alpha) over the agents:
    the quantity skew of Li, Diao, Chen, He 2021 (NIID-Bench, arXiv:2102.02079).

    Args:
        labels: `[samples]`, integer; only its length matters.
        agents: how many parts, at least one and at most as many as samples.
        seed: of the draws.
        alpha: concentration, > 0: small gives a few agents nearly all.

    Returns:
        For each agent the indices of its samples, int64: disjoint, together all of them, at least one an agent.

    Raises:
        ValueError: alpha <= 0 or so extreme that no proportions can be drawn, or fewer samples than agents.

    Example:
        >>> import numpy as np
        >>> import fastsaddle as fs
        >>> labels = np.arange(100) % 10
        >>> parts = fs.sim.data.quantity(labels, agents=5, seed=0, alpha=0.5)
        >>> sum(map(len, parts))
        100
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
