"""The device that an option names, and how runs on it repeat their bits."""

import os

import numpy as np
import torch


def find_device(name: str) -> torch.device:
    """The device that an option names; ValueError where this machine has none such."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"--device {name} is not on this machine, where torch {torch.__version__} "
            f"sees {torch.cuda.device_count()} CUDA devices"
        )
    _repeat_bits()
    return device


def sent(numbers: np.ndarray, device: torch.device) -> torch.Tensor:
    """Numbers as a tensor on a device; a GPU is sent them without waiting for what it has still to do."""
    tensor = torch.from_numpy(numbers)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def _repeat_bits() -> None:
    """Choose CUDA's deterministic algorithms, so that a resumed run repeats the bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # it would also overwrite all new memory, which costs time and changes nothing here
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
