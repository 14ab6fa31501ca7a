"""Split a labelled data set over agents so that each sees its own mixture of classes.

The procedure is the one of the public code of Lin, Karimireddy, Stich, Jaggi 2021 (Quasi-Global
Momentum, arXiv:2102.04761), which later papers on decentralized heterogeneous learning reuse, with
two additions: a draw that leaves nothing to normalize is redrawn, and redraws are capped.
"""

import math
from dataclasses import dataclass

import numpy as np

GROUP = 10
ATTEMPTS = 20_000


def dirichlet(
    labels: np.ndarray, agents: int, alpha: float, seed: int, recut: bool = True
) -> list[np.ndarray]:
    """Indices of every agent's samples: disjoint, together all of them.

    Samples are shuffled and dealt to groups of at most 10 agents. Inside a group each class is
    divided by proportions from Dirichlet(alpha), where agents that already hold their share get
    nothing, until the poorest agent has half a share. `recut=True` then cuts the concatenated lists
    into `agents` blocks whose sizes differ by at most one, so a block may hold a few samples drawn
    for its neighbors in the list; `recut=False` keeps the lists as drawn, of unequal size.

    `labels` is `[samples]`, integer. Raises ValueError for alpha <= 0, for fewer samples than
    agents, and when no acceptable draw turns up.
    """
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha must be finite and > 0, got {alpha}")
    if not 1 <= agents <= len(labels):
        raise ValueError(
            f"agents must be between 1 and the {len(labels)} training samples, got {agents}"
        )
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
    return list(np.array_split(np.concatenate(parts), agents)) if recut else parts


def _divide(
    chunk: np.ndarray, labels: np.ndarray, members: int, alpha: float, random: np.random.RandomState
) -> list[np.ndarray]:
    by_class = [chunk[labels[chunk] == c] for c in np.unique(labels)]
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


@dataclass(frozen=True)
class PartitionStatistics:
    """How unlike the agents' data are: `counts` is `[agents, classes]`, int64."""

    counts: np.ndarray
    mean_classes: float
    mean_top_share: float


def statistics(parts: list[np.ndarray], labels: np.ndarray, classes: int) -> PartitionStatistics:
    """Samples of each class at each agent, the mean number of classes an agent has, and the mean
    share of its most frequent one."""
    counts = np.stack([np.bincount(labels[part], minlength=classes) for part in parts])
    sizes = counts.sum(axis=1)
    return PartitionStatistics(
        counts=counts,
        mean_classes=float((counts > 0).sum(axis=1).mean()),
        mean_top_share=float((counts.max(axis=1) / np.maximum(sizes, 1)).mean()),
    )
