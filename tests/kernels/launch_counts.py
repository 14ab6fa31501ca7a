"""Counts what a step would launch on a GPU, without one: `TRITON_INTERPRET=1 python launch_counts.py`.

Triton's kernels run interpreted, on CPU tensors. Counted are their launches, and every operator of torch's between
them but views, allocations and metadata; nothing of the closures. Operators that make the host wait are listed. The
report is JSON, read by tests/kernels/test_launches.py.
"""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import GridExecutor

import fastsaddle as fs
from fastsaddle.gradients.base import AtRows
from fastsaddle.kernels._shared.rows.tickets_triton import tickets
from fastsaddle.kernels._shared.squares.reference import slice_sums
from fastsaddle.kernels.op import ops
from fastsaddle.optimizer.squares import Squares

# no views by their schema, and no launches
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach"}
FREE |= {"_unsafe_view", "_reshape_alias", "set_", "resize_"}
# the host reads what a device computed
WAITING = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select"}
COLUMNS = (96, 40)

EIGHT_BITS = fs.compressors.StochasticQuantizer(8)
ON_RING = partial(fs.QSADDLe, topology="ring", nonfinite="skip")
METHODS = (fs.DSGD, fs.DSGDm, fs.QGM, fs.DSADDLe, fs.QSADDLe)
# what is built beside the methods on a ring of 16 -> (constructor, agents, groups)
OTHERS: Mapping[str, tuple[Callable[..., Any], int, int]] = {
    "one model": (partial(ON_RING, topology=None), 1, 1),
    "64 agents": (ON_RING, 64, 1),
    "65 agents": (ON_RING, 65, 1),
    "fully connected, 65 agents": (partial(ON_RING, topology="fully_connected"), 65, 1),
    "17 agents, 8 bits": (partial(ON_RING, compressor=EIGHT_BITS), 17, 1),
    "49 agents, 8 bits": (partial(ON_RING, compressor=EIGHT_BITS), 49, 1),
    "2 groups": (ON_RING, 16, 2),
    "2 groups, 8 bits": (partial(ON_RING, compressor=EIGHT_BITS), 16, 2),
    "MomentumSAM": (partial(ON_RING, sam=fs.MomentumSAM()), 16, 1),
    # on a CPU it looks at the norms at once: a control for what reads waiting operators
    "raising": (partial(ON_RING, nonfinite="raise"), 16, 1),
}


class Launches(TorchDispatchMode):
    """Counts launches by name; `paused` while a closure or an interpreted kernel runs."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.is_paused = False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        before, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.is_paused:
            return func(*args, **kwargs)
        namespace, name = func._schema.name.split("::")
        if namespace == "fastsaddle":
            # an op is what it launches: its operators come here again
            with self:
                return ops()[name]._run(*args, **kwargs)
        if name in WAITING:
            self.waits[name] += 1
        elif namespace != "profiler" and name not in FREE and not func.is_view:
            self.counts[name] += 1
        return func(*args, **kwargs)

    def launched(self, executor: GridExecutor, *args: Any, **kwargs: Any) -> None:
        """In place of an interpreted kernel's launch."""
        if not self.is_paused:
            self.counts[executor.fn.__name__] += 1
        with self.paused():
            INTERPRET(executor, *args, **kwargs)


INTERPRET = GridExecutor.__call__


def stepped(
    make: Callable[..., Any], agents: int, groups: int, by_engine: bool = False
) -> Launches:
    """The launches of one step, after one that may allocate; an engine's closure adds up squares."""
    generator = torch.Generator().manual_seed(agents)
    shape = (agents,) if agents > 1 else ()
    parameters = [
        torch.nn.Parameter(torch.randn(*shape, columns, generator=generator)) for columns in COLUMNS
    ]
    divided = [{"params": parameters}] if groups == 1 else [{"params": [p]} for p in parameters]
    optimizer = make(divided, lr=0.1, backend="reference")
    launches = Launches()

    def closure() -> torch.Tensor:
        with launches.paused():
            optimizer.zero_grad()
            loss = torch.stack([(p - 1.0).square().sum() for p in parameters]).sum()
            loss.backward()
            if by_engine:
                rows = optimizer.rows
                rows.squares = Squares(rows.g, slice_sums(rows.g))
            return loss

    if by_engine:
        closure = AtRows(closure)
    optimizer.step(closure)
    optimizer.backend = "triton"
    # a stream keeps its own from its first step on
    tickets(agents, torch.device("cpu"))

    def launched(executor: GridExecutor, *args: Any, **kwargs: Any) -> None:
        launches.launched(executor, *args, **kwargs)

    with patch.object(GridExecutor, "__call__", launched), launches:
        optimizer.step(closure)
    return launches


def main() -> None:
    ring = {"topology": "ring", "nonfinite": "skip"}
    cases = {
        method.__name__ + suffix: (partial(method, compressor=compressor, **ring), 16, 1)
        for method in METHODS
        for suffix, compressor in (("", None), (", 8 bits", EIGHT_BITS))
    }
    cases["QSADDLe, engine"] = partial(fs.QSADDLe, **ring), 16, 1, True
    results = {name: stepped(*case) for name, case in {**cases, **OTHERS}.items()}
    json.dump(
        {name: {"launches": r.counts, "waits": r.waits} for name, r in results.items()},
        sys.stdout,
        indent=1,
    )


if __name__ == "__main__":
    main()
