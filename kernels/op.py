"""The one dispatcher: registers each op with torch.library and picks its implementation by device.

An op registers a schema once (`Library.define` and `impl` under CompositeExplicitAutograd, plus a fake), so that
`opcheck`, full-graph `torch.compile` and whoever watches operators see it like one of torch's. Where nobody looks (see
`is_plain`) the same function runs at once. Ops write into tensors that they are given and return nothing, so the
argument check is also the fake implementation.

To add an op, put a folder beside this file that is named like it: `__init__.py` says what it computes and makes its
`Op`, `reference.py` computes it in plain PyTorch, and `native_cpu.py` (with `native_cpu.cpp`) and `triton_gpu.py`, each
optional, have a function `launch` with the reference's arguments. The folder is the list of ops: nothing else changes.
"""

import contextlib
import contextvars
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

import torch

from fastsaddle.kernels import threads

LIBRARY = torch.library.Library("fastsaddle", "DEF")

# backend name, as users say it -> file of the op that holds it
BACKENDS: Mapping[str, str] = {
    "reference": "reference",
    "native": "native_cpu",
    "triton": "triton_gpu",
}
PREFERENCE: Mapping[str, tuple[str, ...]] = {
    "cpu": ("native", "reference"),
    "cuda": ("triton", "reference"),
}

# types of arguments that have no ways of their own with operators
PLAIN = frozenset({torch.Tensor, torch.nn.Parameter, int, float, bool, type(None)})

_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("backend", default=None)


@contextlib.contextmanager
def use_backend(backend: str | None) -> Iterator[None]:
    """Run every op on `backend` ("reference", "native" or "triton") inside the `with` block.

    None leaves the choice as it is. Nests, and is local to the thread. An op that cannot run there raises
    ImportError and says why.

    Raises:
        ValueError: `backend` is none of the three names.
    """
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    token = _forced.set(backend if backend is not None else _forced.get())
    try:
        yield
    finally:
        _forced.reset(token)


def forced_backend() -> str | None:
    """The backend that `use_backend` asks for here; None outside of it."""
    return _forced.get()


def is_plain(args: Iterable[Any]) -> bool:
    """Whether an op may run without torch's dispatcher, which takes longer than small kernels.

    Nothing is differentiated, mapped, compiled or traced, nobody watches operators, and arguments are plain ones: with
    memory, and not negated when read.
    """
    if not PLAIN.issuperset(map(type, args)):
        return False
    return not (
        torch.is_grad_enabled()
        or torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd._profiler_enabled()
        # last: modes would be told
        or any(t.is_neg() or t.is_meta for t in args if isinstance(t, torch.Tensor))
    )


def interpreting() -> bool:
    """Whether Triton kernels run on CPU tensors in this process (TRITON_INTERPRET=1)."""
    triton = importlib.import_module("triton")
    return bool(triton.knobs.runtime.interpret)


@dataclass(eq=False)
class Op:
    """One op: its schema, checks, reference, and the implementations found beside it.

    Attributes:
        name: the name of its folder, and the operator's name under `torch.ops.fastsaddle`.
        schema: its arguments in torch.library's language; written tensors carry an alias mark.
        reference: the maths in plain PyTorch, on any device.
        check: raises on wrong arguments; reads shapes, dtypes and devices only.
        folder: import path of its folder.
        examples: `(agents, columns, generator) -> {variant: arguments}`, for tests and benchmarks.
        passes: arguments -> how many `[agents, columns]` float32 buffers must be read or written.
        overwrites: arguments that are written without being read first.
        tolerance: (output's name, arguments, expected) -> allowed absolute error; None where bits must be equal.
        apart: an output and an input that may not share memory.
    """

    name: str
    schema: str
    reference: Callable[..., None]
    check: Callable[..., None]
    folder: str
    examples: Callable[[int, int, torch.Generator], dict[str, dict[str, Any]]]
    passes: Callable[[Mapping[str, Any]], float]
    overwrites: tuple[str, ...] = ()
    tolerance: Callable[[str, Mapping[str, Any], torch.Tensor], torch.Tensor] | None = None
    apart: tuple[str, str] | None = None
    _loaded: dict[str, Callable[..., None] | str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        LIBRARY.define(f"{self.name}{self.schema} -> ()")
        LIBRARY.impl(self.name, self._run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"fastsaddle::{self.name}", self.check, lib=LIBRARY)
        self._overload = getattr(torch.ops.fastsaddle, self.name).default
        arguments = self._overload._schema.arguments
        self._written = [n for n, a in enumerate(arguments) if a.alias_info is not None]
        names = [argument.name for argument in arguments]
        self._apart = [names.index(name) for name in self.apart or ()]

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        if not kwargs and is_plain(args):
            self._run(*args)
        else:
            self._overload(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> None:
        self.check(*args, **kwargs)
        if self._apart and share_columns(*(args[n] for n in self._apart)):
            raise ValueError(f"{' and '.join(self.apart or ())} must not share memory")
        device = next(a.device for a in args if isinstance(a, torch.Tensor))
        backend = self.choice(device)
        launch = self.implementation(backend)
        if backend == "reference" and device.type == "cpu":
            threads.settle()
        if device.type == "cpu" and not torch.is_grad_enabled():
            launch(*args, **kwargs)
        else:
            # Triton launches on the current device, wherever the tensors are
            on_device = (
                torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
            )
            with torch.no_grad(), on_device:
                launch(*args, **kwargs)
        if backend != "reference":
            # autograd must notice what was written behind its back
            written = [
                args[n] for n in self._written if args[n] is not None and not args[n].is_inference()
            ]
            torch.autograd.graph.increment_version(written)

    def choice(self, device: torch.device | str) -> str:
        """The backend that runs tensors of `device` now: the forced one, or the first that can.

        Raises:
            ImportError: the forced backend cannot run there; the reason is told.
        """
        kind = torch.device(device).type
        forced = _forced.get()
        if forced is not None:
            reason = self._reason(forced, kind)
            if reason is not None:
                raise ImportError(f"{self.name} cannot run on backend {forced!r}: {reason}")
            return forced
        for backend in PREFERENCE.get(kind, ()):
            if self._reason(backend, kind) is None:
                return backend
        return "reference"

    def unavailable(self, device: torch.device | str) -> dict[str, str]:
        """Why backends cannot run tensors of `device`: backend -> reason."""
        kind = torch.device(device).type
        reasons = {backend: self._reason(backend, kind) for backend in BACKENDS}
        return {backend: reason for backend, reason in reasons.items() if reason is not None}

    def agrees(
        self, output: str, arguments: Mapping[str, Any], got: torch.Tensor, expected: torch.Tensor
    ) -> bool:
        """Whether a result keeps the op's promise: the reference's bits, or its tolerance where it states one.

        One NaN is as good as another. `arguments` are those of the reference, on the device of `expected`.
        """
        got = got.to(expected.device)
        # bits, so that the sign of zero counts
        bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[got.dtype.itemsize]
        same = (got.view(bits) == expected.view(bits)) | (got.isnan() & expected.isnan())
        if self.tolerance is not None and output in self.overwrites:
            allowed = self.tolerance(output, arguments, expected)
            same |= (got.double() - expected.double()).abs() <= allowed
        return bool(same.all())

    def implementation(self, backend: str) -> Callable[..., None]:
        """The function that runs this op on `backend`; ImportError where it cannot be loaded."""
        loaded = self._load(backend)
        if isinstance(loaded, str):
            raise ImportError(loaded)
        return loaded

    def _load(self, backend: str) -> Callable[..., None] | str:
        if backend == "reference":
            return self.reference
        if backend not in self._loaded:
            try:
                module = importlib.import_module(f"{self.folder}.{BACKENDS[backend]}")
                self._loaded[backend] = module.launch
            except ImportError as error:
                self._loaded[backend] = str(error)
        return self._loaded[backend]

    def _reason(self, backend: str, kind: str) -> str | None:
        if backend == "native" and kind != "cpu":
            return f"the native library works on CPU tensors, got {kind}"
        loaded = self._load(backend)
        if isinstance(loaded, str):
            return loaded
        if backend == "triton" and kind == "cpu" and not interpreting():
            return "Triton runs CPU tensors only under TRITON_INTERPRET=1"
        return None


def share_columns(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two `[agents, columns]` buffers overlap: windows of one allocation that are not side by side."""
    if a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False
    stride = max(a.stride(0), 1)
    apart = (a.storage_offset() - b.storage_offset()) % stride
    return apart < b.shape[1] or stride - apart < a.shape[1]


@cache
def ops() -> dict[str, Op]:
    """All ops found in the folder, by name."""
    kernels: ModuleType = importlib.import_module("fastsaddle.kernels")
    names = sorted(m.name for m in pkgutil.iter_modules(kernels.__path__) if m.ispkg)
    return {
        name: getattr(importlib.import_module(f"fastsaddle.kernels.{name}"), name) for name in names
    }
