"""Ranges around the phases of a step, for whoever profiles: records of torch.profiler, and NVTX's on GPUs.

torch.profiler, and `torch.autograd.profiler.emit_nvtx()`, see them without being asked to. The environment's
`FASTSADDLE_NVTX=1` makes them for tools that read NVTX by themselves, such as Nsight Systems.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch

PREFIX = "fastsaddle."
# whether somebody other than torch's profiler reads ranges; asked for once, as steps look here each time
NVTX = os.environ.get("FASTSADDLE_NVTX", "0") not in ("", "0") and torch.cuda.is_available()
NOTHING = nullcontext()


def are_wanted() -> bool:
    """Whether anybody sees ranges now."""
    return NVTX or torch.autograd._profiler_enabled()


def ranged(name: str) -> AbstractContextManager[None]:
    """A range inside a `with` block, for whoever profiles."""
    return _range(PREFIX + name) if are_wanted() else NOTHING


@contextmanager
def _range(name: str) -> Iterator[None]:
    with ExitStack() as stack:
        if torch.autograd._profiler_enabled():
            stack.enter_context(torch.profiler.record_function(name))
        if NVTX:
            torch.cuda.nvtx.range_push(name)
            stack.callback(torch.cuda.nvtx.range_pop)
        yield


class Stages:
    """The ranges of one step, each of which ends where the next begins."""

    def __init__(self) -> None:
        self._open: AbstractContextManager[None] | None = None

    def to(self, name: str | None) -> None:
        """End the stage before, and begin the one that is named; None: there is none."""
        before, self._open = self._open, None
        if before is not None:
            before.__exit__(None, None, None)
        if name is not None:
            now = ranged(name)
            now.__enter__()
            self._open = now
