"""The loss around a run's last consensus model, computed once and kept in the run's directory."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from fastsaddle import sharpness
from fastsaddle.sim.data import arrays
from fastsaddle.sim.data.agent_data import AgentData
from fastsaddle.sim.report.runs import Run
from fastsaddle.sim.run import trained
from fastsaddle.sim.run.devices import find_device
from fastsaddle.sim.run.paths import inside
from fastsaddle.sim.run.whole_files import writing

EXTENT = 1.0
# of the directions and of the samples: one for all runs, so that they can be compared
SEED = 0


@dataclass(frozen=True)
class Surface:
    """`loss` is `[points, points]` float64, the consensus model of step `step` in its middle."""

    loss: np.ndarray
    step: int


def surface(run: Run, samples: int, points: int, data_dir: Path | None) -> Surface:
    """The mean training loss around the consensus model of the last checkpoint.

    `samples` of the training samples are drawn once for all runs of a data set, `data_dir` replaces the folder that
    the run read them from. Taken from the run's directory where it was computed before for the same checkpoint and
    numbers.

    Raises ValueError or OSError where there is no checkpoint, no data, a damaged file, or a link that leads out of the
    run's directory.
    """
    path, tensors, step = trained.latest(run.path, run.config.agents)
    numbers = f"{samples} {points} {EXTENT} {SEED}"
    kept = inside(run.path, f"surface-{_digest(path, numbers)}.npz")
    if kept.exists():
        return Surface(_load(kept, points), step)
    config = replace(run.config, device="auto", data_dir=data_dir or run.config.data_dir)
    data = AgentData(config, find_device("auto"))
    model = trained.consensus(config, path, tensors, data.dataset)
    order = np.random.default_rng(SEED).permutation(len(data.dataset.train_labels))[:samples]
    chosen = torch.from_numpy(order).to(data.device)
    loss = sharpness.loss_surface(
        model,
        F.cross_entropy,
        data.dataset.train[chosen],
        data.dataset.train_labels[chosen],
        EXTENT,
        points,
        SEED,
    ).numpy()
    _save(kept, loss)
    return Surface(loss, step)


def _digest(path: Path, numbers: str) -> str:
    sha = hashlib.sha256(numbers.encode())
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            sha.update(piece)
    return sha.hexdigest()[:16]


def _load(path: Path, points: int) -> np.ndarray:
    try:
        loss = arrays.read_npz(path, lambda names: ["loss"])["loss"]
        if loss.dtype != np.float64 or loss.shape != (points, points):
            raise ValueError(f"loss is {loss.dtype} {list(loss.shape)}")
    except ValueError as error:
        raise ValueError(f"{path} is damaged, delete it: {error}") from error
    return loss


def _save(path: Path, loss: np.ndarray) -> None:
    with writing(path) as partial, partial.open("wb") as stream:
        np.savez(stream, loss=loss)
