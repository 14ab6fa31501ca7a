"""Checkpoints that survive crashes: written beside, synced, renamed, and equal for equal states.

A file holds tensors only (safetensors: no pickle, and nothing time-dependent): loading one can run
no code, and two runs that did the same leave the same bytes.
"""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

PARTIAL = ".partial"
KEPT = 2
COUNTER = "counter."


def save(
    directory: Path, tensors: Mapping[str, Tensor], step: int, counters: Mapping[str, int]
) -> Path:
    """Write `checkpoint-<step>.safetensors` and remove all but the last two.

    Whatever fails, an earlier checkpoint stays whole; OSError is raised when the disk is full.
    """
    path = directory / f"checkpoint-{step}.safetensors"
    # counters are tensors because the order of safetensors' metadata is not fixed
    numbers = {
        f"{COUNTER}{name}": torch.tensor(value)
        for name, value in {"step": step, **counters}.items()
    }
    content = {name: _alone(tensor) for name, tensor in tensors.items()}
    try:
        with writing(path) as partial:
            # save_file leaves a file that only its owner may read: keep the mode of an ordinary one
            partial.touch()
            mode = partial.stat().st_mode
            save_file({**content, **numbers}, partial)
            partial.chmod(mode)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    for _, old in find(directory)[KEPT:]:
        old.unlink()
    return path


def _alone(tensor: Tensor) -> Tensor:
    """Contiguous, and in no buffer with others: safetensors refuses those."""
    alone = tensor.detach().contiguous()
    return alone if alone.untyped_storage().nbytes() == alone.nbytes else alone.clone()


def load(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], int, dict[str, int]]:
    """The tensors, the step and the counters. Raises ValueError for a damaged file."""
    try:
        content = load_file(path, device=str(device))
        counters = {
            name.removeprefix(COUNTER): int(content.pop(name))
            for name in [name for name in content if name.startswith(COUNTER)]
        }
        return content, counters.pop("step"), counters
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is not a whole checkpoint: {error}") from error


def find(directory: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run as (step, path), latest first."""
    found = []
    for path in directory.glob("checkpoint-*.safetensors"):
        match = re.fullmatch(r"checkpoint-(\d+)\.safetensors", path.name)
        if match:
            found.append((int(match[1]), path))
    return sorted(found, reverse=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what a killed process left half written, by this module or by safetensors' save_file."""
    for pattern in (f"*{PARTIAL}", ".tmp*"):
        for path in directory.glob(pattern):
            path.unlink()


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end of the block: after a crash it is there whole or not at all.

    Raises OSError, naming `path`, for what the block or the renaming raises.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        replace_synced(partial, path)
    except OSError as error:
        # a full disk does not say which file it had no space for
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def write_synced(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with writing(path) as partial:
        partial.write_text(text)


def replace_synced(partial: Path, path: Path) -> None:
    """Rename a finished file to its name, its content and the folder's entry being on disk."""
    sync(partial)
    os.replace(partial, path)
    try:
        sync(path.parent)
    except OSError as error:
        # some network file systems cannot sync a folder, where the rename itself is still atomic
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
