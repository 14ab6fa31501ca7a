"""Every agent has exactly k classes, whose samples it shares with their other holders."""

import numpy as np

from fastsaddle.sim.data.partitions._base import check_agents, generator


def classes(labels: np.ndarray, agents: int, seed: int, per_agent: int = 2) -> list[np.ndarray]:
    """A split in which every agent holds so many random classes.

    Each class's samples are divided at random and evenly, up to one, among its holders: the quantity-based label
    imbalance of Li, Diao, Chen, He 2021 (NIID-Bench, arXiv:2102.02079). Here the numbers of holders of any two classes
    differ by at most one, so that every class has one.

    Args:
        labels: `[samples]`, integer.
        agents: how many parts, at least one and at most as many as samples.
        seed: of the draws.
        per_agent: classes that an agent holds.

    Returns:
        For each agent the indices of its samples, int64: disjoint, together all of them.

    Raises:
        ValueError: an agent cannot have that many classes, all together cannot hold every class, or a class has fewer
            samples than holders.

    Example:
        >>> import numpy as np
        >>> import fastsaddle as fs
        >>> labels = np.arange(100) % 10
        >>> parts = fs.sim.data.classes(labels, agents=5, seed=0, per_agent=2)
        >>> sum(map(len, parts))
        100
    """
    check_agents(labels, agents)
    present = np.unique(labels)
    if not 1 <= per_agent <= len(present):
        raise ValueError(
            f"classes an agent must be between 1 and the {len(present)} of the training set, "
            f"got {per_agent}"
        )
    if agents * per_agent < len(present):
        raise ValueError(
            f"{agents} agents with {per_agent} classes each cannot hold all {len(present)} classes: "
            "use more agents or more classes an agent"
        )
    random = generator(seed)
    holders: list[list[int]] = [[] for _ in present]
    for agent in range(agents):
        # the classes with the fewest holders so far, ties in random order
        order = sorted(random.permutation(len(present)), key=lambda c: len(holders[c]))
        for c in order[:per_agent]:
            holders[c].append(agent)
    parts: list[list[np.ndarray]] = [[] for _ in range(agents)]
    for c, members in zip(present, holders, strict=True):
        indices = random.permutation(np.flatnonzero(labels == c))
        if len(indices) < len(members):
            raise ValueError(
                f"every holder of a class needs one of its samples, class {c} has {len(indices)} "
                f"for {len(members)} agents: use fewer agents or fewer classes an agent"
            )
        for agent, piece in zip(members, np.array_split(indices, len(members)), strict=True):
            parts[agent].append(piece)
    return [np.concatenate(pieces) for pieces in parts]
