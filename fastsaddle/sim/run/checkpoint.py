"""Checkpoints that survive crashes: written beside, synced, renamed, and equal for equal states.

A file holds tensors only (safetensors: no pickle, and nothing time-dependent): loading one can run
no code, and two runs that did the same leave the same bytes. SHA-256 of all names, types, shapes and
numbers is in its header, and whatever of them has changed is refused.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

PARTIAL = ".partial"
KEPT = 2
COUNTER = "counter."
CHECKSUM = "sha256"
# a counter that came with the checksum: a file that has one without the other was written again by something else
FORMAT = "format"
# what a killed process may leave in a run's directory: its own files half written, and safetensors' temporary ones
LEFTOVER = re.compile(
    r"(?:(?:config|partition|diverged|sharpness)\.json|metrics\.jsonl|(?:curves|classes)\.png"
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
    content = {**{name: _alone(tensor) for name, tensor in tensors.items()}, **numbers}
    try:
        with writing(path) as partial:
            # save_file leaves a file that only its owner may read: keep the mode of an ordinary one
            partial.touch()
            mode = partial.stat().st_mode
            save_file(content, partial, {CHECKSUM: _checksum(content)})
            partial.chmod(mode)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    remove_old(directory, step)
    return path


def remove_old(directory: Path, step: int) -> None:
    """Remove all checkpoints before that of a step but one, a whole one being there."""
    # later ones are damaged, or this run would have gone on from them
    for _, old in [found for found in find(directory) if found[0] <= step][KEPT:]:
        old.unlink()


def _alone(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, and in no buffer with others: safetensors refuses those."""
    alone = tensor.detach().cpu().contiguous()
    return alone if alone.untyped_storage().nbytes() == alone.nbytes else alone.clone()


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def load(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], int, dict[str, int]]:
    """The tensors, the step and the counters.

    Raises ValueError for a damaged file: one whose numbers, types, shapes, names or counters are not those that were
    written. Files of earlier versions have no checksum, and are held against their form alone.
    """
    try:
        content, metadata = _read(path)
        # earlier versions wrote neither
        is_earlier = metadata is None and COUNTER + FORMAT not in content
        if not is_earlier and (metadata or {}).get(CHECKSUM) != _checksum(content):
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


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


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
    """The checkpoints of a run as (step, path), latest first."""
    found = []
    for path in directory.glob("checkpoint-*.safetensors"):
        match = re.fullmatch(r"checkpoint-(\d+)\.safetensors", path.name)
        if match:
            found.append((int(match[1]), path))
    return sorted(found, reverse=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what a killed process left half written, by this module or by safetensors' save_file."""
    for path in filter(is_leftover, directory.iterdir()):
        path.unlink()


def is_leftover(path: Path) -> bool:
    """Whether a file of a run was being written by a process that was killed, or still is; no other has its name."""
    return path.is_file() and LEFTOVER.fullmatch(path.name) is not None


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end of the block: after a crash it is there whole or not at all.

    Raises OSError, naming `path`, for what the block or the renaming raises.
    """
    partial = path.with_name(path.name + PARTIAL)
    # of a killed process; a link would lead the writing elsewhere
    partial.unlink(missing_ok=True)
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
