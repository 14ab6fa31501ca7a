"""The loss around a run's last consensus model, computed once and kept in the run's directory."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastsaddle import sharpness
from fastsaddle.sim.data import arrays
from fastsaddle.sim.data.agent_data import AgentData
from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.report.paths import inside
from fastsaddle.sim.report.runs import Run
from fastsaddle.sim.run import checkpoint, initial_models
from fastsaddle.sim.run.batch_statistics import reestimate
from fastsaddle.sim.run.devices import find_device
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
    path, tensors, step = _latest(run)
    numbers = f"{samples} {points} {EXTENT} {SEED}"
    kept = inside(run.path, f"surface-{_digest(path, numbers)}.npz")
    if kept.exists():
        return Surface(_load(kept, points), step)
    config = replace(run.config, device="auto", data_dir=data_dir or run.config.data_dir)
    data = AgentData(config, find_device("auto"))
    model = consensus_model(replace(run, config=config), path, tensors, data.dataset)
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


def _latest(run: Run) -> tuple[Path, dict[str, Tensor], int]:
    """The latest whole checkpoint of as many agents as the run has: path, tensors and step."""
    error = ValueError(f"{run.path} has no checkpoint")
    for _, found in checkpoint.find(run.path):
        path = inside(run.path, found.name)
        try:
            tensors, step, _ = checkpoint.load(path)
        except ValueError as damage:
            error = damage
            continue
        agents = run.config.agents
        # before anything is made for so many
        if "x" not in tensors or tensors["x"].shape[:1] != (agents,):
            raise ValueError(f"{path} must hold x of shape ({agents}, ...), a row an agent")
        return path, tensors, step
    raise error


@torch.no_grad()
def consensus_model(
    run: Run, path: Path, tensors: dict[str, Tensor], dataset: Dataset
) -> nn.Module:
    """The model that stands for all agents in a checkpoint. Raises ValueError where it is not the run's."""
    device = dataset.train_inputs.device
    stack = initial_models.build_stack(replace(run.config, init="same"), dataset, device)
    live = {"x": stack.x, **{f"buffer.{name}": b for name, b in stack.buffers.items()}}
    for name, tensor in live.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise ValueError(f"{path} must hold {name} of shape {tuple(tensor.shape)}")
        tensor.copy_(tensors[name])
    center = tensors.get("optimizer.center")
    model = stack.consensus(None if center is None else center[0].to(device))
    reestimate(model, dataset.train)
    return model


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
