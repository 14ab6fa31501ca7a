"""Digests of a grid's data and splits: equal ones mean that runs learn from the same samples."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from fastsaddle.sim import json_files
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.data.agent_data import load, split
from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.run.whole_files import write_synced

CPU = torch.device("cpu")


def found(configs: Iterable[TrainConfig]) -> dict[str, str]:
    """A digest by what it is of: each data set, and each split of it.

    Raises ValueError or OSError where data are missing.
    """
    digests: dict[str, str] = {}
    datasets: dict[str, Dataset] = {}
    configs = list(configs)
    several = len({config.dataset for config in configs}) > 1
    for config in configs:
        data = f"data {config.dataset}, evaluated on {config.evaluate_on}"
        if data not in datasets:
            datasets[data] = load(config, CPU)
            digests[data] = of_dataset(datasets[data])
        name = (
            f"split {config.partition}, alpha {config.alpha:g}, {config.agents} agents, "
            f"seed {config.seed_of_split}"
        )
        name += "" if config.feature_skew is None else f", {config.feature_skew}"
        name += f", of {config.dataset}" if several else ""
        if name not in digests:
            digests[name] = of_parts(split(config, datasets[data].train_labels.numpy()))
    return digests


def of_dataset(dataset: Dataset) -> str:
    """The digest of all samples and labels."""
    tensors = (
        *(dataset.train_inputs, dataset.train_labels),
        *(dataset.test_inputs, dataset.test_labels),
    )
    return _digest(tensor.numpy() for tensor in tensors)


def of_parts(parts: Iterable[np.ndarray]) -> str:
    """The digest of which agent has which samples."""
    return _digest(parts)


def _digest(arrays: Iterable[np.ndarray]) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def write(path: Path, digests: dict[str, str]) -> None:
    """Keep digests, to be committed."""
    write_synced(path, json.dumps(digests, indent=1) + "\n")


def check(path: Path, digests: dict[str, str]) -> None:
    """Raise ValueError for the first of the digests that is not the one kept in `path`."""
    if not path.is_file():
        raise ValueError(f"{path} is missing, which says what the data were")
    kept = json_files.read(path)
    for what, digest in digests.items():
        if kept.get(what) != digest:
            raise ValueError(
                f"not what the table was made from: {what} has the digest {digest[:16]}, "
                f"{path.name} says {str(kept.get(what))[:16]}"
            )
