"""What launchers must know of the device that they launch on: its kind, its multiprocessors and its L2."""

import functools
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """A GPU, as far as shapes depend on it.

    Attributes:
        kind: `sm_90` and the like, or `gfx942`; `default` where there is none.
        multiprocessors: how many it has.
        cached: bytes that its L2 holds.
    """

    kind: str
    multiprocessors: int
    cached: int


# where there is no device to ask: under the interpreter; whoever compiles ahead of time puts another here
STAND_IN = [Device("default", 4, 0)]


def device_of(device: torch.device) -> Device:
    """The GPU that tensors lie on; the stand-in for tensors that lie on none."""
    if device.type != "cuda":
        return STAND_IN[0]
    return _asked(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _asked(index: int) -> Device:
    has = torch.cuda.get_device_properties(index)
    kind = f"sm_{has.major}{has.minor}"
    if torch.version.hip:
        kind = has.gcnArchName.partition(":")[0]
    return Device(kind, has.multi_processor_count, has.L2_cache_size)
