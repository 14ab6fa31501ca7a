"""Hooks in Triton's interpreter: at its memory operations, at its barriers, and around the programs of a launch.

The interpreter is private to Triton: what is patched is looked up, and a version without it raises instead of checking
nothing.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any, Protocol

import numpy as np
from triton.runtime import interpreter

Program = tuple[int, int, int]
# runs one program: sets where it stands in the grid, and calls the kernel
Run = Callable[[Program], None]
BUILDER = interpreter.interpreter_builder
# the innermost lines of GridExecutor.__call__
LOOP = re.compile(
    r"^( +)for x in range\(grid\[0\]\):\n.*?\n +interpreter_builder\.set_grid_idx\(x, y, z\)\n"
    r" +self\.fn\(\*\*args\)\n",
    re.MULTILINE | re.DOTALL,
)


class Watcher(Protocol):
    """Is told of everything that programs do, and decides when they do it."""

    def launch(self, kernel: str, programs: Sequence[Program], run: Run) -> None:
        """Run all programs of a launch, in some order."""

    def access(
        self,
        kind: str,
        addresses: np.ndarray,
        positions: np.ndarray,
        shape: tuple[int, ...],
        size: int,
    ) -> None:
        """Before an access: "load", "store" or "atomic" of `size` bytes at each address.

        Positions are places in a block of this shape: which thread it is, for blocks of equal shapes.
        """

    def barrier(self) -> None:
        """A barrier of the threads of one program."""


def patched_call(
    launch: Callable[[Any, dict[str, Any], Sequence[int]], None],
) -> Callable[..., Any]:
    """GridExecutor.__call__ with `launch(executor, arguments, grid)` in place of its loop over programs."""
    source = textwrap.dedent(inspect.getsource(interpreter.GridExecutor.__call__))
    changed, count = LOOP.subn(r"\1launch_(self, args, grid)\n", source)
    if count != 1:
        raise RuntimeError(
            "this Triton's interpreter has another loop over programs than is known here"
        )
    names: dict[str, Any] = {**vars(interpreter), "launch_": launch}
    exec(compile(changed, "<GridExecutor.__call__ with hooks>", "exec"), names)
    return names["__call__"]


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Inside the block `watcher` is told of all that interpreted kernels do."""
    builder = type(BUILDER)
    methods = {
        name: getattr(builder, name)
        for name in (
            *("create_masked_load", "create_masked_store"),
            *("create_atomic_rmw", "create_atomic_cas", "create_barrier"),
        )
    }

    def tell(kind: str, pointers: Any, mask: np.ndarray | None) -> None:
        addresses = np.asarray(pointers.data).ravel()
        positions = np.arange(addresses.size)
        if mask is not None:
            chosen = np.broadcast_to(mask, pointers.data.shape).ravel()
            addresses, positions = addresses[chosen], positions[chosen]
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        watcher.access(kind, addresses.astype(np.int64), positions, pointers.data.shape, size)

    def load(self: Any, pointers: Any, mask: Any, *more: Any) -> Any:
        tell("load", pointers, mask.data)
        return methods["create_masked_load"](self, pointers, mask, *more)

    def store(self: Any, pointers: Any, value: Any, mask: Any, *more: Any) -> Any:
        tell("store", pointers, mask.data)
        return methods["create_masked_store"](self, pointers, value, mask, *more)

    def rmw(self: Any, kind: Any, pointers: Any, value: Any, mask: Any, *more: Any) -> Any:
        tell("atomic", pointers, mask.data)
        return methods["create_atomic_rmw"](self, kind, pointers, value, mask, *more)

    def cas(self: Any, pointers: Any, *more: Any) -> Any:
        tell("atomic", pointers, None)
        return methods["create_atomic_cas"](self, pointers, *more)

    def barrier(self: Any) -> Any:
        watcher.barrier()
        return methods["create_barrier"](self)

    def launch(executor: Any, arguments: dict[str, Any], grid: Sequence[int]) -> None:
        def run(program: Program) -> None:
            BUILDER.set_grid_idx(*program)
            executor.fn(**arguments)

        programs = list(product(*map(range, grid)))
        watcher.launch(executor.fn.__name__, programs, run)

    hooks = {
        "create_masked_load": load,
        "create_masked_store": store,
        "create_atomic_rmw": rmw,
        "create_atomic_cas": cas,
        "create_barrier": barrier,
    }
    call = interpreter.GridExecutor.__call__
    replaced = patched_call(launch)
    try:
        interpreter.GridExecutor.__call__ = replaced
        for name, hook in hooks.items():
            setattr(builder, name, hook)
        yield
    finally:
        interpreter.GridExecutor.__call__ = call
        for name, method in methods.items():
            setattr(builder, name, method)
