"""What all partitions share: their generator, checks of arguments and results, and statistics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# keeps these draws apart from those of the batches, which use the same seed
PARTITION_STREAM = 0x70617274


def generator(seed: int) -> np.random.Generator:
    """The random numbers of a partition; nothing else draws the same ones from this seed."""
    return np.random.default_rng([seed, PARTITION_STREAM])


def check_agents(labels: np.ndarray, agents: int) -> None:
    """Raise ValueError unless every agent can have at least one of the samples."""
    if not 1 <= agents <= len(labels):
        raise ValueError(
            f"agents must be between 1 and the {len(labels)} training samples, got {agents}"
        )


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless `alpha` can be the concentration of a Dirichlet distribution."""
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha must be finite and > 0, got {alpha}")


def checked(
    parts: Sequence[np.ndarray] | np.ndarray, samples: int, agents: int
) -> list[np.ndarray]:
    """A partition that somebody wrote, as int64 arrays, once it proves to be one.

    It is one when it has `agents` one-dimensional integer arrays, none of them empty, of indices
    between 0 and `samples - 1`, none twice. Samples may be left out. Raises ValueError otherwise.
    """
    if not isinstance(parts, list | tuple | np.ndarray) or len(parts) != agents:
        size = f" of {len(parts)}" if hasattr(parts, "__len__") else ""
        raise ValueError(
            f"a partition must be a list of {agents} index arrays, one for each agent, "
            f"got {type(parts).__name__}{size}"
        )
    indices = []
    for agent, array in enumerate(map(np.asarray, parts)):
        if array.size == 0:
            raise ValueError(f"every agent needs at least one sample, agent {agent} has none")
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"a partition must consist of one-dimensional integer arrays, "
                f"got {array.ndim}-dimensional {array.dtype} for agent {agent}"
            )
        if array.min() < 0 or array.max() >= samples:
            raise ValueError(
                f"indices of a partition must be between 0 and {samples - 1}, "
                f"got {array.min()} to {array.max()} for agent {agent}"
            )
        indices.append(array.astype(np.int64))
    found, times = np.unique(np.concatenate(indices), return_counts=True)
    if times.max() > 1:
        raise ValueError(
            f"a partition must hold no sample twice, got {times.max()} times sample "
            f"{found[times.argmax()]}"
        )
    return indices


@dataclass(frozen=True, eq=False)
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
