"""The Dirichlet draw behind `dirichlet` and `dirichlet_raw`.

The procedure is the one of the public code of Lin, Karimireddy, Stich, Jaggi 2021 (Quasi-Global
Momentum, arXiv:2102.04761), which later papers on decentralized heterogeneous learning reuse, with
three additions: a draw that leaves nothing to normalize is redrawn, redraws are capped, and an agent
alone in its group takes all of it without a draw.
"""

import math

import numpy as np

from fastsaddle.sim.data.partitions._base import check_agents, check_alpha

GROUP = 10
ATTEMPTS = 20_000


def drawn_lists(labels: np.ndarray, agents: int, seed: int, alpha: float) -> list[np.ndarray]:
    """Indices of every agent's samples, of unequal number: disjoint, together all of them.

    Samples are shuffled and dealt to groups of at most 10 agents. Inside a group each class is
    divided by proportions from Dirichlet(alpha), where agents that already hold their share get
    nothing, until the poorest agent has half a share.
    """
    check_alpha(alpha)
    check_agents(labels, agents)
    # the legacy generator, whose bits numpy never changes, as in the code that this follows
    random = np.random.RandomState(seed)
    order = random.permutation(len(labels))
    parts: list[np.ndarray] = []
    first = 0
    while len(parts) < agents:
        members = min(GROUP, agents - len(parts))
        is_last = len(parts) + members == agents
        last = len(order) if is_last else first + int(GROUP / agents * len(order))
        parts += _divide(order[first:last], labels, members, alpha, random)
        first = last
    return parts


def _divide(
    chunk: np.ndarray, labels: np.ndarray, members: int, alpha: float, random: np.random.RandomState
) -> list[np.ndarray]:
    by_class = [chunk[labels[chunk] == c] for c in np.unique(labels)]
    if members == 1:
        # no draw can be accepted for a last class that has no samples here
        return [np.concatenate(by_class)]
    sizes = [len(indices) for indices in by_class]
    for _ in range(ATTEMPTS):
        cuts = _draw(sizes, len(chunk), members, alpha, random)
        if cuts is not None:
            pieces = [
                np.split(indices, cut[:-1]) for indices, cut in zip(by_class, cuts, strict=True)
            ]
            return [np.concatenate(mine) for mine in zip(*pieces, strict=True)]
    raise ValueError(
        f"no Dirichlet({alpha}) split of {len(chunk)} samples over {members} agents gives each of "
        f"them half a share ({ATTEMPTS} attempts): use a larger alpha or fewer agents"
    )


def _draw(
    sizes: list[int], samples: int, members: int, alpha: float, random: np.random.RandomState
) -> list[np.ndarray] | None:
    """Where to cut each class, or None when the attempt is to be redrawn."""
    share = samples / members
    held = np.zeros(members, dtype=np.int64)
    cuts = []
    for size in sizes:
        # a tiny alpha can underflow to nan or inf, or give all to agents that are full already
        with np.errstate(invalid="ignore"):
            proportions = random.dirichlet(np.full(members, alpha)) * (held < share)
            total = proportions.sum()
        if not 0 < total < math.inf:
            return None
        cut = (np.cumsum(proportions / total) * size).astype(np.int64)
        # rounding must not lose the last sample of a class
        cut[-1] = size
        held += np.diff(cut, prepend=0)
        cuts.append(cut)
    return cuts if held.min() >= int(0.5 * share) else None
