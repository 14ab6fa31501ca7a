"""Compiles what ops launch for a GPU that is not here: a stand-in for the driver, and arguments without memory."""

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any

import torch
import triton
from triton.backends import backends
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from fastsaddle.kernels._shared.shapes.devices import STAND_IN, Device

TARGETS = {
    "sm_80": ("nvidia", GPUTarget("cuda", 80, 32)),
    "sm_90": ("nvidia", GPUTarget("cuda", 90, 32)),
    "sm_100": ("nvidia", GPUTarget("cuda", 100, 32)),
    "gfx942": ("amd", GPUTarget("hip", "gfx942", 64)),
}
# columns that examples are drawn with: narrow, as no value is read
DRAWN = 96
# elements of a bucket
BUCKET = 512
# multiprocessors of a GPU that nobody asks
FEW = 4
COMPILE: Any = JITFunction.run
# what the assembler said of a binary, which it says once
LOGS: dict[int, tuple[Any, str]] = {}


class StandIn:
    """What Triton asks a device's driver when a kernel is launched."""

    def __init__(self, name: str) -> None:
        # kernels are kept by a device's number: each target has its own
        self.number, (_, self.target) = list(TARGETS).index(name), TARGETS[name]

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.number

    def get_current_stream(self, device: int) -> int:
        return 0


def missing(target: str) -> str | None:
    """Why this Triton cannot compile for a target; None where it can."""
    backend, _ = TARGETS[target]
    return None if backend in backends else f"this Triton was built without {backend}"


def compile_for(target: str, launched: Callable[..., None]) -> None:
    """From now on, launches in this process call `launched(kernel, *args, grid=..., **kwargs)` for a target."""
    stand_in: Any = StandIn(target)
    driver.set_active(stand_in)
    STAND_IN[0] = Device(target, FEW, 0)
    if TARGETS[target][0] == "amd":
        # block shapes go by the width of a warp
        torch.version.hip = "stand-in"
    triton.knobs.nvidia.dump_ptxas_log = True
    JITFunction.run = lambda kernel, *args, **kwargs: launched(kernel, *args, **kwargs)


def compiled(kernel: JITFunction, *args: Any, **kwargs: Any) -> tuple[Any, str]:
    """The binary of a launch, and what the assembler said of it."""
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        binary = COMPILE(kernel, *args, **{**kwargs, "warmup": True})
    return LOGS.setdefault(id(binary), (binary, log.getvalue()))


def on_meta(
    arguments: Mapping[str, Any],
    columns: int,
    padding: int = 128,
    degree: int | None = None,
    bucket: int = BUCKET,
) -> dict[str, Any]:
    """The arguments without memory: rows `columns` wide and `padding` apart, lists of `degree` neighbors."""
    buckets = columns // bucket
    # sizes of what is no row, but grows with one
    sizes = {
        "buckets": (0, buckets),
        "counts": (0, buckets),
        "scales": (1, buckets),
        "codes": (1, columns * arguments.get("bits", 8) // 8),
        "signs": (1, columns // 8),
        "indices": (1, columns // 8),
        "values": (1, columns // 8),
    }
    if degree is not None:
        sizes |= {name: (1, degree + 1) for name in ("neighbors", "sources", "weights")}

    def replace(name: str, value: Any) -> Any:
        if name == "bucket":
            return bucket
        if isinstance(value, list):
            return [replace("", each) for each in value]
        if not isinstance(value, torch.Tensor):
            return value
        shape = [columns if n == DRAWN else n for n in value.shape]
        if name in sizes:
            axis, size = sizes[name]
            shape[axis] = size
        stride = (columns + padding, 1) if shape[1:] == [columns] and name not in sizes else None
        empty = torch.empty(shape, dtype=value.dtype, device="meta")
        return empty if stride is None else empty.as_strided(shape, stride)

    return {name: replace(name, value) for name, value in arguments.items()}
