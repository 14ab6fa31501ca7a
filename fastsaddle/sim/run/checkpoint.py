"""Checkpoints that survive crashes: written beside, synced, renamed, and equal for equal states.

One process writes a file, several write a folder: see spread_checkpoint.py.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from fastsaddle.sim.run import spread_checkpoint, tensor_files
from fastsaddle.sim.run.whole_files import PARTIAL

LOG = logging.getLogger(__name__)

KEPT = 2
COUNTER = "counter."
# a counter that came with the checksum: a file that has one without the other was written again by something else
FORMAT = "format"
# what a killed process may leave in a run's directory: its own files half written, and safetensors' temporary ones
LEFTOVER = re.compile(
    r"(?:(?:config|partition|diverged|sharpness)\.json|(?:metrics|faults)\.jsonl|(?:curves|classes)\.png"
    rf"|checkpoint-\d+\.safetensors|surface-[0-9a-f]{{16}}\.npz){re.escape(PARTIAL)}"
    r"|\.tmp[A-Za-z0-9]{6}"
)


def save(
    directory: Path, tensors: Mapping[str, Tensor], step: int, counters: Mapping[str, int]
) -> Path:
    """Write `checkpoint-<step>.safetensors` and remove all before it but one.

    Whatever fails, an earlier checkpoint stays whole; OSError is raised when the disk is full.
    """
    path = directory / f"checkpoint-{step}.safetensors"
    # counters are tensors because the order of several entries of safetensors' metadata is not fixed
    numbers = {
        f"{COUNTER}{name}": torch.tensor(value)
        for name, value in {"step": step, FORMAT: 1, **counters}.items()
    }
    tensor_files.write(path, {**tensors, **numbers})
    remove_old(directory, step)
    return path


def remove_old(directory: Path, step: int) -> None:
    """Remove all checkpoints before that of a step but one, a whole one being there."""
    # later ones are damaged, or this run would have gone on from them
    for _, old in [found for found in find(directory) if found[0] <= step][KEPT:]:
        if old.is_dir():
            spread_checkpoint.remove(old)
        else:
            old.unlink()


def load(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], int, dict[str, int]]:
    """The tensors of all agents, the step and the counters; of a folder, what its files hold together.

    Raises ValueError for a damaged file: one whose numbers, types, shapes, names or counters are not those that were
    written. Files of earlier versions have no checksum, and are held against their form alone.
    """
    if path.is_dir():
        return spread_checkpoint.load(path, device)
    try:
        content, metadata = tensor_files.read(path)
        # earlier versions wrote neither
        is_earlier = metadata is None and COUNTER + FORMAT not in content
        if not is_earlier and (metadata or {}).get(tensor_files.CHECKSUM) != tensor_files.checksum(
            content
        ):
            raise ValueError("its checksum is not that of its content")
        content.pop(COUNTER + FORMAT, None)
        counters = {
            name.removeprefix(COUNTER): _count(name, content.pop(name))
            for name in [name for name in content if name.startswith(COUNTER)]
        }
        step = _counted_step(path, counters)
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(f"{path} is not a whole checkpoint: {error}") from error
    return {name: tensor.to(device) for name, tensor in content.items()}, step, counters


def _count(name: str, tensor: Tensor) -> int:
    if tensor.dtype != torch.int64 or tensor.dim() or tensor < 0:
        raise ValueError(f"{name} must be a whole number >= 0")
    return int(tensor)


def _counted_step(path: Path, counters: dict[str, int]) -> int:
    """The step, which leaves the counters and must be the one that the file is named after."""
    if "step" not in counters:
        raise ValueError(f"it lacks {COUNTER}step")
    step = counters.pop("step")
    if path.name != f"checkpoint-{step}.safetensors":
        raise ValueError(f"it is of step {step}")
    return step


def find(directory: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run as (step, path), files and folders, latest first."""
    found = spread_checkpoint.find(directory)
    for path in directory.glob("checkpoint-*.safetensors"):
        match = re.fullmatch(r"checkpoint-(\d+)\.safetensors", path.name)
        if match:
            found.append((int(match[1]), path))
    return sorted(found, reverse=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what killed processes left half written, by this module or by safetensors' save_file."""
    for path in filter(is_leftover, directory.iterdir()):
        LOG.info("%s was left half written, and is removed", path)
        path.unlink()
    spread_checkpoint.remove_unsealed(directory)


def is_leftover(path: Path) -> bool:
    """Whether a file of a run was being written by a process that was killed, or still is; no other has its name."""
    return path.is_file() and LEFTOVER.fullmatch(path.name) is not None
