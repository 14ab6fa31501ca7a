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
# of a group's draw: whichever is used up first. Work is what takes ten microseconds or so, less than a second in all
ATTEMPTS = 20_000
WORK = 40_000


def drawn_lists(labels: np.ndarray, agents: int, seed: int, alpha: float) -> list[np.ndarray]:
    """Indices of every agent's samples, of unequal number: disjoint, together all of them.

    Samples are shuffled and dealt to groups of at most 10 agents. Inside a group each class is
    divided by proportions from Dirichlet(alpha), where agents that already hold their share get
    nothing, until the poorest agent has half a share.
    """
    check_alpha(alpha)
    check_agents(labels, agents)
    if seed >= 2**32:
        raise ValueError(
            f"--seed or --split-seed must be below 2^32 for a Dirichlet split, got {seed}"
        )
    # the legacy generator, whose bits numpy never changes, as in the code that this follows
    random = np.random.RandomState(seed)
    order = random.permutation(len(labels))
    parts: list[np.ndarray] = []
    first = 0
    while len(parts) < agents:
        members = min(GROUP, agents - len(parts))
        is_last = len(parts) + members == agents
        last = len(order) if is_last else first + int(GROUP / agents * len(order))
        found = _divide(order[first:last], labels, members, alpha, random)
        if found is None:
            counts = np.unique(labels, return_counts=True)[1]
            raise ValueError(
                f"no Dirichlet({alpha:g}) split was found that gives each of {agents} agents about half of an equal "
                f"share, {len(labels) // (2 * agents):,} of the {len(labels):,} samples; of the {len(counts)} classes "
                f"the largest has {counts.max():,}, the smallest {counts.min():,}: use a larger alpha or fewer agents"
            )
        parts += found
        first = last
    return parts


def _divide(
    chunk: np.ndarray, labels: np.ndarray, members: int, alpha: float, random: np.random.RandomState
) -> list[np.ndarray] | None:
    """The samples of each member, or None where no attempt was accepted."""
    by_class = [chunk[labels[chunk] == c] for c in np.unique(labels)]
    if members == 1:
        # no draw can be accepted for a last class that has no samples here
        return [np.concatenate(by_class)]
    sizes = [len(indices) for indices in by_class]
    work = 0
    for _ in range(ATTEMPTS):
        cuts, accepted = _draw(sizes, len(chunk), members, alpha, random)
        if accepted:
            pieces = [
                np.split(indices, cut[:-1]) for indices, cut in zip(by_class, cuts, strict=True)
            ]
            return [np.concatenate(mine) for mine in zip(*pieces, strict=True)]
        work += 4 + len(cuts) + len(sizes) * members // 100
        if work >= WORK:
            break
    return None


def _draw(
    sizes: list[int], samples: int, members: int, alpha: float, random: np.random.RandomState
) -> tuple[list[np.ndarray], bool]:
    """Where to cut each class, and whether that is accepted; classes behind one that settles it may be left out."""
    share = samples / members
    least, left = int(0.5 * share), samples
    held = np.zeros(members, dtype=np.int64)
    cuts: list[np.ndarray] = []
    before = random.get_state()
    # a tiny alpha can underflow to nan
    with np.errstate(invalid="ignore"):
        # the same numbers as class by class
        drawn = random.dirichlet(np.full(members, alpha), len(sizes))
    # then each class can be divided, as one member always lacks some of its share
    are_positive = bool(((drawn > 0) & np.isfinite(drawn)).all())
    for number, size in enumerate(sizes):
        proportions = np.where(held < share, drawn[number], 0.0)
        total = proportions.sum()
        if not 0 < total < math.inf:
            # the next attempt begins here: later classes have not been drawn yet
            random.set_state(before)
            with np.errstate(invalid="ignore"):
                random.dirichlet(np.full(members, alpha), number + 1)
            return cuts, False
        cut = (np.cumsum(proportions / total) * size).astype(np.int64)
        # rounding must not lose the last sample of a class
        cut[-1] = size
        held += np.diff(cut, prepend=0)
        cuts.append(cut)
        left -= size
        if are_positive and np.maximum(least - held, 0).sum() > left:
            # what is left cannot give everybody enough
            return cuts, False
    return cuts, bool(held.min() >= least)
