"""Where the checker listens in Triton's interpreter: loads, stores, atomics, barriers, and the loop over the grid.

Hooks are found by name, for Triton 3.6 to 3.9, and tried on a kernel of a few lines before anything else runs: a
version that reaches memory by another way is refused, not passed in silence.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

LOAD, STORE, ATOMIC = "load", "store", "atomic"
KNOWN_ATOMICS = ("create_atomic_rmw", "create_atomic_cas")
# an order of these meanings holds within one program only
ONE_PROGRAM = "CTA"


@dataclass(frozen=True)
class Access:
    """What one memory operation of one program touched.

    Attributes:
        kind: LOAD, STORE or ATOMIC.
        addresses: `[n]` int64, of the elements that the mask lets through.
        places: `[n]` int64, where in the block they stand.
        shape: of the block; one element is what all threads have.
        size: bytes of an element.
        values: `[n]`, what a store writes; None for others.
        acquires, releases: whether an atomic orders what comes after it, and what came before.
        is_shared: whether an atomic is one for other programs too.
    """

    kind: str
    addresses: np.ndarray
    places: np.ndarray
    shape: tuple[int, ...]
    size: int
    values: np.ndarray | None = None
    acquires: bool = False
    releases: bool = False
    is_shared: bool = True


@dataclass(frozen=True)
class Launch:
    """The programs of a launch, to be run once each, in any order.

    Attributes:
        kernel: its name.
        programs: how many there are.
        memory: (begin, end, name) of each storage that its arguments lie in, by address.
        enter: makes a program the one that asks for its number.
        run: runs a program from its beginning, which is entered.
    """

    kernel: str
    programs: int
    memory: Sequence[tuple[int, int, str]]
    enter: Callable[[int], None]
    run: Callable[[int], None]


class Listener(Protocol):
    """Runs launches and hears what they do."""

    def launched(self, launch: Launch) -> None:
        """Run all programs of a launch."""

    def pause(self) -> None:
        """A program is about to touch memory."""

    def accessed(self, access: Access) -> None:
        """A program has touched memory."""

    def barrier(self) -> None:
        """All threads of a program have met."""


class Programs:
    """In place of a kernel where the interpreter calls it: notes the programs, and has them run at the last one."""

    def __init__(self, executor: Any, memory: list[tuple[int, int, str]], listener: Listener):
        self.kernel, self.memory, self.listener = executor.fn, memory, listener
        self.numbers: list[tuple[int, ...]] = []
        self.__name__ = self.kernel.__name__
        # the interpreter looks for arguments and for triton.language
        self.__signature__ = inspect.signature(self.kernel)
        self.__globals__ = self.kernel.__globals__

    def __call__(self, **arguments: Any) -> None:
        builder = interpreter.interpreter_builder
        self.numbers.append(tuple(builder.grid_idx))
        if len(self.numbers) < prod(builder.grid_dim):
            return
        self.listener.launched(
            Launch(
                self.__name__,
                len(self.numbers),
                self.memory,
                lambda n: builder.set_grid_idx(*self.numbers[n]),
                lambda n: self.kernel(**arguments),
            )
        )


def tensors_of(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, tuple):
        for n, each in enumerate(value):
            yield from tensors_of(f"{name}[{n}]", each)


def memory_of(names: Sequence[str], arguments: Sequence[Any]) -> list[tuple[int, int, str]]:
    """(begin, end, names) of the storages behind arguments, by address."""
    found: dict[tuple[int, int], list[str]] = {}
    for name, value in zip(names, arguments, strict=False):
        for told, tensor in tensors_of(name, value):
            storage = tensor.untyped_storage()
            begin = storage.data_ptr()
            found.setdefault((begin, begin + storage.nbytes()), []).append(told)
    return sorted((*span, " = ".join(told)) for span, told in found.items() if span[0] < span[1])


def touched(pointers: Any, mask: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mask, addresses, places) of what a masked block reaches."""
    addresses = np.asarray(pointers.data)
    # a descriptor's is a plain array before Triton 3.9
    mask = mask if isinstance(mask, np.ndarray) else np.asarray(mask.data)
    # what `&` makes of a block and a number is none of truth values
    mask = np.broadcast_to(mask, addresses.shape).astype(bool)
    return mask, addresses[mask].astype(np.int64), np.flatnonzero(mask)


def order_of(semantic: Any, scope: Any) -> dict[str, bool]:
    is_shared = scope.name != ONE_PROGRAM
    return {
        "acquires": is_shared and semantic.name in ("ACQUIRE", "ACQUIRE_RELEASE"),
        "releases": is_shared and semantic.name in ("RELEASE", "ACQUIRE_RELEASE"),
        "is_shared": is_shared,
    }


def hook_points() -> dict[str, Callable[..., Any]]:
    """What is replaced: name -> what stands there; NotImplementedError names what this Triton lacks."""
    builder = interpreter.InterpreterBuilder
    points = {
        name: getattr(builder, name, None)
        for name in ("create_masked_load", "create_masked_store", *KNOWN_ATOMICS, "create_barrier")
    }
    points["__call__"] = vars(interpreter.GridExecutor).get("__call__")
    missing = [name for name, found in points.items() if found is None]
    missing += [n for n in ("set_grid_idx", "set_grid_dim") if not hasattr(builder, n)]
    if missing:
        raise NotImplementedError(
            f"the interpreter of Triton {triton.__version__} has no {', '.join(missing)}: "
            "tests/kernels/checker/hooks.py must learn what it has instead"
        )
    return points


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """While it lasts, interpreted kernels of this process are run by `listener`, which hears of all that they touch.

    Raises NotImplementedError where Triton's interpreter is not one that is known.
    """
    points = hook_points()

    def load(self: Any, pointers: Any, mask: Any, *others: Any, **named: Any) -> Any:
        listener.pause()
        _, addresses, places = touched(pointers, mask)
        result = points["create_masked_load"](self, pointers, mask, *others, **named)
        shape, size = pointers.data.shape, result.data.itemsize
        listener.accessed(Access(LOAD, addresses, places, shape, size))
        return result

    def store(self: Any, pointers: Any, value: Any, mask: Any, *others: Any, **named: Any) -> Any:
        listener.pause()
        where, addresses, places = touched(pointers, mask)
        result = points["create_masked_store"](self, pointers, value, mask, *others, **named)
        shape, values = where.shape, np.broadcast_to(value.data, where.shape)[where]
        listener.accessed(Access(STORE, addresses, places, shape, values.itemsize, values))
        return result

    def update(self: Any, kind: Any, pointers: Any, value: Any, mask: Any, *order: Any) -> Any:
        listener.pause()
        _, addresses, places = touched(pointers, mask)
        result = points["create_atomic_rmw"](self, kind, pointers, value, mask, *order)
        shape, size = pointers.data.shape, result.data.itemsize
        listener.accessed(Access(ATOMIC, addresses, places, shape, size, **order_of(*order)))
        return result

    def exchange(self: Any, pointers: Any, known: Any, value: Any, *order: Any) -> Any:
        listener.pause()
        _, addresses, places = touched(pointers, np.ones(1, dtype=bool))
        result = points["create_atomic_cas"](self, pointers, known, value, *order)
        shape, size = pointers.data.shape, result.data.itemsize
        listener.accessed(Access(ATOMIC, addresses, places, shape, size, **order_of(*order)))
        return result

    def barrier(self: Any, *others: Any) -> Any:
        listener.barrier()
        return points["create_barrier"](self, *others)

    def unknown(name: str) -> Callable[..., Any]:
        def refuse(*arguments: Any, **named: Any) -> Any:
            raise NotImplementedError(f"the checker does not know what {name} orders")

        return refuse

    def call(executor: Any, *arguments: Any, **named: Any) -> Any:
        given = [*zip(executor.arg_names, arguments, strict=False), *named.items()]
        memory = memory_of(*zip(*given, strict=True)) if given else []
        kernel, executor.fn = executor.fn, Programs(executor, memory, listener)
        try:
            return points["__call__"](executor, *arguments, **named)
        finally:
            executor.fn = kernel

    hooks = {
        "create_masked_load": load,
        "create_masked_store": store,
        "create_atomic_rmw": update,
        "create_atomic_cas": exchange,
        "create_barrier": barrier,
    }
    builder = interpreter.InterpreterBuilder
    for name in dir(builder):
        if name.startswith("create_atomic") and name not in KNOWN_ATOMICS:
            hooks[name] = unknown(name)
    with contextlib.ExitStack() as stack:
        for name, hook in hooks.items():
            stack.enter_context(patch.object(builder, name, hook))
        stack.enter_context(patch.object(interpreter.GridExecutor, "__call__", call))
        yield


@triton.jit
def probe_kernel(x_ptr, counter_ptr, N: tl.constexpr):
    number = tl.program_id(0)
    block = x_ptr + number * N + tl.arange(0, N)
    tl.store(block, tl.load(block, mask=tl.arange(0, N) < 3, other=0.0))
    tl.debug_barrier()
    scalar = tl.load(x_ptr + number * N)
    tl.store(x_ptr + number * N, scalar + 1.0)
    tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu")
    tl.atomic_cas(counter_ptr, 7, 8, sem="relaxed", scope="cta")


class Probe:
    """Hears the probe, whose programs run from the last to the first."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def launched(self, launch: Launch) -> None:
        self.heard.append(f"{launch.kernel} {[m[2] for m in launch.memory]}")
        for n in reversed(range(launch.programs)):
            launch.enter(n)
            launch.run(n)

    def pause(self) -> None:
        self.heard.append("pause")

    def accessed(self, access: Access) -> None:
        told = access.acquires, access.releases, access.is_shared
        order = f" {told}" if access.kind == ATOMIC else ""
        self.heard.append(f"{access.kind} {len(access.addresses)} of {access.shape}{order}")

    def barrier(self) -> None:
        self.heard.append("barrier")


def assert_hooks_hold() -> None:
    """Raise NotImplementedError unless every operation of a known kernel is heard, once and in order."""
    x, counter = torch.arange(8.0), torch.zeros(1, dtype=torch.int32)
    probe = Probe()
    with listening(probe):
        probe_kernel[(2,)](x, counter, N=4)
    memory = [name for _, _, name in memory_of(("x_ptr", "counter_ptr"), (x, counter))]
    touches = (
        *("load 3 of (4,)", "store 4 of (4,)", "barrier", "load 1 of (1,)", "store 1 of (1,)"),
        *("atomic 1 of (1,) (True, True, True)", "atomic 1 of (1,) (False, False, False)"),
    )
    program = [w for t in touches for w in ((t,) if t == "barrier" else ("pause", t))]
    expected = [f"probe_kernel {memory}", *program, *program]
    if probe.heard != expected or x.tolist() != [1, 1, 2, 0, 5, 5, 6, 0] or counter.item() != 2:
        raise NotImplementedError(
            f"the interpreter of Triton {triton.__version__} does not go through the checker's hooks: "
            f"heard {probe.heard} instead of {expected}"
        )
