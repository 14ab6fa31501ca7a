"""The loss around a run's last consensus model, computed once and kept in the run's directory."""

import hashlib
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from fastsaddle import sharpness
from fastsaddle.sim.data.agent_data import AgentData
from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.report.runs import Run
from fastsaddle.sim.run import checkpoint, initial_models
from fastsaddle.sim.run.batch_statistics import reestimate
from fastsaddle.sim.run.checkpoint import writing
from fastsaddle.sim.run.devices import find_device

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

    Raises ValueError or OSError where there is no checkpoint, no data, or a damaged file.
    """
    found = checkpoint.find(run.path)
    if not found:
        raise ValueError(f"{run.path} has no checkpoint")
    step, path = found[0]
    numbers = f"{samples} {points} {EXTENT} {SEED}"
    kept = run.path / f"surface-{_digest(path, numbers)}.npz"
    if kept.exists():
        return Surface(_load(kept), step)
    config = replace(run.config, device="auto", data_dir=data_dir or run.config.data_dir)
    data = AgentData(config, find_device("auto"))
    model = consensus_model(replace(run, config=config), path, data.dataset)
    order = np.random.default_rng(SEED).permutation(len(data.dataset.train_labels))[:samples]
    chosen = torch.from_numpy(order).to(data.device)
    loss = sharpness.loss_surface(
        model,
        F.cross_entropy,
        data.dataset.train_inputs[chosen],
        data.dataset.train_labels[chosen],
        EXTENT,
        points,
        SEED,
    ).numpy()
    _save(kept, loss)
    return Surface(loss, step)


@torch.no_grad()
def consensus_model(run: Run, path: Path, dataset: Dataset) -> nn.Module:
    """The model that stands for all agents in a checkpoint. Raises ValueError where it is not the run's."""
    device = dataset.train_inputs.device
    tensors, _, _ = checkpoint.load(path, device)
    stack = initial_models.build_stack(replace(run.config, init="same"), dataset, device)
    live = {"x": stack.x, **{f"buffer.{name}": b for name, b in stack.buffers.items()}}
    for name, tensor in live.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise ValueError(f"{path} must hold {name} of shape {tuple(tensor.shape)}")
        tensor.copy_(tensors[name])
    center = tensors.get("optimizer.center")
    model = stack.consensus(None if center is None else center[0])
    reestimate(model, dataset.train_inputs)
    return model


def _digest(path: Path, numbers: str) -> str:
    sha = hashlib.sha256(numbers.encode())
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            sha.update(piece)
    return sha.hexdigest()[:16]


def _load(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as content:
            return content["loss"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged, delete it: {error}") from error


def _save(path: Path, loss: np.ndarray) -> None:
    with writing(path) as partial, partial.open("wb") as stream:
        np.savez(stream, loss=loss)
