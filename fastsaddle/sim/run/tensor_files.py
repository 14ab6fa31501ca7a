"""Files of tensors (safetensors: no pickle, nothing time-dependent) with a checksum of all that they hold.

Loading one can run no code, and equal tensors leave equal bytes. SHA-256 of all names, types, shapes and numbers is in
the header, and whatever of them has changed is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastsaddle.sim.run.whole_files import writing

CHECKSUM = "sha256"


def write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a file of tensors, whole or not at all; its checksum.

    Raises:
        OSError: it cannot be written.
    """
    content = {name: _alone(tensor) for name, tensor in tensors.items()}
    found = checksum(content)
    save(path, content, {CHECKSUM: found})
    return found


def save(path: Path, content: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write tensors that share no memory, and words about them, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        with writing(path) as partial:
            # save_file leaves a file that only its owner may read: keep the mode of an ordinary one
            partial.touch()
            mode = partial.stat().st_mode
            save_file(dict(content), partial, dict(about))
            partial.chmod(mode)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """The tensors of a file, and what its header says besides."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def read_checked(path: Path, wanted: str) -> dict[str, Tensor]:
    """The tensors of a file with this checksum.

    Raises:
        ValueError: it has another, or is none.
    """
    try:
        content, _ = read(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    if checksum(content) != wanted:
        raise ValueError(f"the checksum of {path.name} is not that of its content")
    return content


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all names, types, shapes and numbers."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _alone(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, and in no buffer with others: safetensors refuses those."""
    alone = tensor.detach().cpu().contiguous()
    return alone if alone.untyped_storage().nbytes() == alone.nbytes else alone.clone()
