"""Checkpoints of several processes: a folder with a file of each one's agents, and a manifest that seals it.

    checkpoint-<step>/agents-<first>-<end>.safetensors     rows of these agents; the first file also has what all share
    checkpoint-<step>/manifest.json                        agents, step, counters; each file's agents, size and checksum

The manifest is written last, after all files are on disk: without it the folder is no checkpoint. Rows belong to
agents, not to processes: any number of them can go on from it.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from fastsaddle.sim import json_files
from fastsaddle.sim.run.agent_rows import joined, part
from fastsaddle.sim.run.tensor_files import read_checked, write
from fastsaddle.sim.run.whole_files import write_synced

LOG = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
FOLDER = re.compile(r"checkpoint-(\d+)")
KINDS = {
    "format": int,
    "step": int,
    "agents": int,
    "counters": dict[str, int],
    "dimensions": dict[str, int],
    "files": list[dict[str, Any]],
}


def folder_of(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step lies, or will."""
    return directory / f"checkpoint-{step}"


def begin(directory: Path, step: int) -> None:
    """Make the folder, or break the seal of one that is there: its files are about to be written."""
    folder = folder_of(directory, step)
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)


def save_part(
    directory: Path,
    tensors: Mapping[str, Tensor],
    of: Mapping[str, int | None],
    step: int,
    agents: range,
) -> dict[str, Any]:
    """Write the file of the agents here, on disk when this returns; its entry in the manifest.

    Args:
        directory: the run's.
        tensors: of the agents here, and what all share.
        of: the dimension that counts agents, of each.
        step: steps done.
        agents: numbers of the agents here.

    Raises:
        OSError: it cannot be written.
    """
    folder = folder_of(directory, step)
    own = {n: t for n, t in tensors.items() if agents.start == 0 or of.get(n) is not None}
    path = folder / f"agents-{agents.start}-{agents.stop}.safetensors"
    checksum = write(path, own)
    size = path.stat().st_size
    return {
        "name": path.name,
        "first": agents.start,
        "end": agents.stop,
        "bytes": size,
        "sha256": checksum,
    }


def seal(
    directory: Path,
    step: int,
    agents: int,
    counters: Mapping[str, int],
    of: Mapping[str, int | None],
    files: list[dict[str, Any]],
) -> Path:
    """Write the manifest, all files being on disk: from now on the folder is a checkpoint.

    Raises:
        OSError: it cannot be written; earlier checkpoints stay.
    """
    folder = folder_of(directory, step)
    content = {
        "format": FORMAT,
        "step": step,
        "agents": agents,
        "counters": dict(counters),
        "dimensions": {name: d for name, d in of.items() if d is not None},
        "files": files,
    }
    write_synced(folder / MANIFEST, json.dumps(content, indent=1) + "\n")
    return folder


def find(directory: Path) -> list[tuple[int, Path]]:
    """The sealed folders of a run as (step, path), in no order."""
    return [
        (int(match[1]), path)
        for path in directory.glob("checkpoint-*")
        if (match := FOLDER.fullmatch(path.name)) and (path / MANIFEST).is_file()
    ]


def remove_unsealed(directory: Path) -> None:
    """Remove folders that killed processes left without their manifest."""
    for path in directory.glob("checkpoint-*"):
        if path.is_dir() and FOLDER.fullmatch(path.name) and not (path / MANIFEST).exists():
            LOG.info("%s was left half written, and is removed", path)
            shutil.rmtree(path)


def remove(folder: Path) -> None:
    """Remove a checkpoint, its seal first: one that is half gone is none."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


def load(
    folder: Path, device: torch.device | str = "cpu", agents: range | None = None
) -> tuple[dict[str, Tensor], int, dict[str, int]]:
    """The tensors of all agents, or of some, with what all share; the step and the counters.

    Only the files that hold these agents are read.

    Raises:
        ValueError: it is damaged.
    """
    try:
        manifest = json_files.read(folder / MANIFEST)
        json_files.check(manifest, KINDS, KINDS, str(folder / MANIFEST))
        if manifest["format"] != FORMAT or folder.name != f"checkpoint-{manifest['step']}":
            raise ValueError(f"it is of step {manifest['step']}, format {manifest['format']}")
        return _read(folder, manifest, device, agents)
    except (SafetensorError, ValueError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is not a whole checkpoint: {error}") from error


def _read(
    folder: Path, manifest: dict[str, Any], device: torch.device | str, agents: range | None
) -> tuple[dict[str, Tensor], int, dict[str, int]]:
    files, of = manifest["files"], manifest["dimensions"]
    wanted = range(manifest["agents"]) if agents is None else agents
    ends = [0, *(entry["end"] for entry in files)]
    if [e["first"] for e in files] != ends[:-1] or ends[-1] != manifest["agents"]:
        raise ValueError(f"its files do not hold {manifest['agents']} agents, each once")
    if wanted.stop > manifest["agents"]:
        raise ValueError(f"it holds {manifest['agents']} agents, {wanted.stop} are wanted")
    shared: dict[str, Tensor] = {}
    parts = []
    for entry in files:
        overlaps = entry["first"] < wanted.stop and entry["end"] > wanted.start
        if not overlaps and entry["first"]:
            continue
        content = read_checked(folder / entry["name"], entry["sha256"])
        shared |= {name: tensor for name, tensor in content.items() if name not in of}
        if overlaps:
            rows = {name: tensor for name, tensor in content.items() if name in of}
            begin = max(wanted.start, entry["first"]) - entry["first"]
            end = min(wanted.stop, entry["end"]) - entry["first"]
            parts.append(part(rows, of, range(begin, end)))
    tensors = {**joined(parts, of), **shared}
    on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
    return on_device, manifest["step"], manifest["counters"]
