"""The one dispatcher: registers each op with torch.library and picks its implementation by device.

An op registers a schema once (`Library.define` and `impl` under CompositeExplicitAutograd, plus a fake), so that
`opcheck`, full-graph `torch.compile` and whoever watches operators see it like one of torch's. Where nobody looks (see
`is_plain`) the same function runs at once. Ops write into tensors that they are given, so the argument check is also
the fake implementation; one that returns a tensor makes an empty one first.

To add an op, put a folder beside this file that is named like it: `__init__.py` says what it computes and makes its
`Op` of one list of arguments, `reference.py` computes it in plain PyTorch, and `native_cpu.cpp` (a function
`fs_<name>`) and `triton_gpu.py` (a function `launch`) are there or not. The folder is the list of ops: nothing else
changes.
"""

import contextlib
import contextvars
import importlib
import inspect
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from fastsaddle.kernels import documentation, generated, native, threads
from fastsaddle.kernels.arguments import Argument, Rows

LOG = logging.getLogger(__name__)

LIBRARY = torch.library.Library("fastsaddle", "DEF")

BACKENDS = ("reference", "native", "triton")
WRITTEN_IN = {"native": "C++", "triton": "Triton"}
PREFERENCE: Mapping[str, tuple[str, ...]] = {
    "cpu": ("native", "reference"),
    "cuda": ("triton", "reference"),
}

# types of arguments that have no ways of their own with operators
PLAIN = frozenset(
    {torch.Tensor, torch.nn.Parameter, int, float, bool, type(None), tuple, list, torch.Size}
)

_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("backend", default=None)


@contextlib.contextmanager
def use_backend(backend: str | None) -> Iterator[None]:
    """Run every op on one backend inside a `with` block.

    Blocks nest, and are local to their thread. An op that the backend cannot run raises ImportError and says why.

    Args:
        backend: "reference" (plain PyTorch), "native" (C++ on a CPU) or "triton"; None changes nothing.

    Raises:
        ValueError: another name.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> with fs.use_backend("reference"):
        ...     fs.metrics.consensus_mean(torch.ones(4, 32))[:2]
        tensor([1., 1.])
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
    if (
        torch.is_grad_enabled()
        or torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd._profiler_enabled()
    ):
        return False
    # last: modes would be told
    for value in args:
        if isinstance(value, torch.Tensor):
            # meta tensors and autograd's zeros have no memory
            if value.is_neg() or not value.data_ptr():
                return False
        elif isinstance(value, tuple | list) and not all(type(each) is int for each in value):
            return False
    return True


def interpreting() -> bool:
    """Whether Triton kernels run on CPU tensors in this process (TRITON_INTERPRET=1)."""
    triton = importlib.import_module("triton")
    return bool(triton.knobs.runtime.interpret)


@dataclass(eq=False)
class Op:
    """One op: its arguments, reference, and the implementations found beside it.

    Calling it is `torch.ops.fastsaddle.<name>`, by position or by name.

    Attributes:
        name: the operator's name under `torch.ops.fastsaddle`, and `fs_<name>` that of its C function.
        arguments: what it takes, in order. Schema, checks and the call of the C function are made of this list.
        reference: the maths in plain PyTorch, on any device; takes the arguments in order.
        folder: import path of its folder, whose docstring says what it computes.
        examples: `(agents, columns, generator) -> {variant: arguments}`, for tests and benchmarks.
        passes: arguments -> how many `[agents, columns]` float32 buffers must be read or written.
        rules: what must hold beyond the arguments' kinds: functions that raise, of any of the arguments, by name.
        tolerance: (output's name, arguments, expected) -> allowed absolute error; None where bits must be equal.
        apart: an output and an input of which no parts may overlap; elsewhere it is only seen where both begin alike.
        makes: for an operator that returns what it computes: a function of any of the arguments, by name, that makes
            the empty tensor. Implementations get it as `out`, behind the arguments.
        launch: name of the implementations' function in `triton_gpu.py`.
        doc: what it computes, where the folder has several ops.
        is_layer: it computes a layer of networks, not models: engines choose it, optimizers do not need it.
    """

    name: str
    arguments: Sequence[Argument]
    reference: Callable[..., None]
    folder: str
    examples: Callable[[int, int, torch.Generator], dict[str, dict[str, Any]]]
    passes: Callable[[Mapping[str, Any]], float]
    rules: Sequence[Callable[..., None]] = ()
    tolerance: Callable[[str, Mapping[str, Any], torch.Tensor], torch.Tensor] | None = None
    apart: tuple[str, str] | None = None
    makes: Callable[..., torch.Tensor] | None = None
    launch: str = "launch"
    doc: str = ""
    is_layer: bool = False
    _loaded: dict[str, Callable[..., None] | str] = field(default_factory=dict, repr=False)
    # of each kind of device what runs where nobody asks for a backend, and whether it writes behind autograd's back
    _chosen: dict[str, tuple[Callable[..., None], bool]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        names = [argument.name for argument in self.arguments]
        self.check = generated.checker(self.name, self.arguments, self.rules)
        self._check_memory = generated.memory_checker(self.name, self.arguments)
        self._bind = generated.binder(self.name, self.arguments)
        self._make = None
        if self.makes is not None:
            self._make = generated.picked(self.name, self.arguments, self.makes)
        self.__signature__ = inspect.signature(self._bind)
        self.__doc__ = documentation.docstring(self)
        LIBRARY.define(self.schema)
        LIBRARY.impl(self.name, self._run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"fastsaddle::{self.name}", self._fake, lib=LIBRARY)
        self._overload = getattr(torch.ops.fastsaddle, self.name).default
        self._count = len(names)
        self._plain_classes: set[tuple[type, ...]] = set()
        self._first = names.index(generated.first(self.arguments).name)
        self._written = [n for n, a in enumerate(self.arguments) if a.written]
        self._apart = [names.index(name) for name in self.apart or ()]

    @property
    def schema(self) -> str:
        """The operator in torch.library's language."""
        return generated.schema(self.name, self.arguments, self.makes is not None)

    @property
    def outputs(self) -> list[str]:
        """What is written; `out` where it is returned."""
        made = ["out"] if self.makes is not None else []
        return [*(a.name for a in self.arguments if a.written), *made]

    @property
    def overwrites(self) -> tuple[str, ...]:
        """What is written without being read first."""
        return tuple(a.name for a in self.arguments if a.written and not a.read)

    @property
    def rows(self) -> list[str]:
        """Arguments that are rows of models, or of what is shaped like them."""
        return [a.name for a in self.arguments if isinstance(a, Rows)]

    @property
    def backends(self) -> list[str]:
        """Those that it has an implementation for, in the order of BACKENDS."""
        folder = Path(sys.modules[self.folder].__file__ or "").parent
        files = {"native": "native_cpu.cpp", "triton": "triton_gpu.py"}
        return [b for b in BACKENDS if b not in files or (folder / files[b]).exists()]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != self._count:
            args = self._bind(*args, **kwargs)
        # in this order: torch.compile follows the first alone
        if is_plain(args) and (
            tuple(map(type, args)) in self._plain_classes or self._are_typed(args)
        ):
            return self._run(*args)
        return self._overload(*args)

    def _are_typed(self, args: Sequence[Any]) -> bool:
        """Whether each argument's class is one that implementations take; the dispatcher converts or refuses others."""
        given = zip(self.arguments, args, strict=True)
        are_typed = all(type(value) in argument.plain for argument, value in given)
        if are_typed:
            self._plain_classes.add(tuple(map(type, args)))
        return are_typed

    def _refuse_none(self, args: Sequence[Any]) -> None:
        """Raise where a tensor is missing, which the dispatcher lets through."""
        for argument, value in zip(self.arguments, args, strict=True):
            if value is None and not argument.optional:
                raise TypeError(f"{self.name}() needs {argument.name}, {argument.kind}, got None")

    def _fake(self, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        args = self._bind(*args, **kwargs)
        self.check(*args)
        return None if self._make is None else self._make(*args)

    def _run(self, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        if kwargs or len(args) != self._count:
            args = self._bind(*args, **kwargs)
        try:
            self.check(*args)
        except AttributeError:
            self._refuse_none(args)
            raise
        self._check_memory(*args)
        apart = [args[n] for n in self._apart]
        if apart and apart[0] is not None and share_columns(*apart):
            raise ValueError(f"{' and '.join(self.apart or ())} must not share memory")
        first = args[self._first]
        kind = "cpu" if first.is_cpu else first.device.type
        launch, is_hidden = self._way(kind)
        made = None
        given = args
        if self._make is not None:
            made = self._make(*args)
            given = (*args, made)
        if kind == "cpu" and not is_hidden:
            threads.settle()
        if kind == "cpu" and not torch.is_grad_enabled():
            launch(*given)
        else:
            # Triton launches on the current device, wherever the tensors are
            on_device = (
                torch.cuda.device(first.device) if kind == "cuda" else contextlib.nullcontext()
            )
            with torch.no_grad(), on_device:
                launch(*given)
        if is_hidden:
            # autograd must notice what was written behind its back
            written = [
                args[n] for n in self._written if args[n] is not None and not args[n].is_inference()
            ]
            torch.autograd.graph.increment_version(written)
        return made

    def _way(self, kind: str) -> tuple[Callable[..., None], bool]:
        """What runs tensors of a kind of device now, and whether it writes behind autograd's back."""
        if _forced.get() is None and kind in self._chosen:
            return self._chosen[kind]
        backend = self.choice(kind)
        way = self.implementation(backend), backend != "reference"
        if _forced.get() is None:
            self._chosen[kind] = way
            self._say(backend, kind)
        return way

    def _say(self, backend: str, kind: str) -> None:
        """Log, once a kind of device, what runs there and why better ones do not."""
        better = PREFERENCE.get(kind, ())
        better = better[: better.index(backend)] if backend in better else better
        reasons = "; ".join(f"{name} cannot: {self._reason(name, kind)}" for name in better)
        level = logging.INFO if reasons else logging.DEBUG
        LOG.log(
            level, "%s runs on %s by %s%s", self.name, kind, backend, reasons and f" ({reasons})"
        )

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
        if self.tolerance is not None and output in (*self.overwrites, "out"):
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
            self._loaded[backend] = self._opened(backend)
        return self._loaded[backend]

    def _opened(self, backend: str) -> Callable[..., None] | str:
        if backend not in self.backends:
            return f"there is no {WRITTEN_IN[backend]} kernel"
        try:
            return self._native() if backend == "native" else self._triton()
        except ImportError as error:
            return str(error)

    def _native(self) -> Callable[..., None]:
        symbol = native.function(f"fs_{self.name}", generated.ctypes_of(self.arguments))
        return generated.caller(self.name, self.arguments, symbol, threads.count, native.refuse)

    def _triton(self) -> Callable[..., None]:
        return getattr(importlib.import_module(f"{self.folder}.triton_gpu"), self.launch)

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
    """Whether two `[rows, columns]` buffers overlap; rows of one do not. Windows side by side are apart."""
    (a_begin, a_step, a_width), (b_begin, b_step, b_width) = map(_rows_of, (a, b))
    a_end = a_begin + (len(a) - 1) * a_step + a_width
    b_end = b_begin + (len(b) - 1) * b_step + b_width
    if a_end <= b_begin or b_end <= a_begin:
        return False
    if a_step == b_step:
        apart = (a_begin - b_begin) % a_step
        return apart < b_width or a_step - apart < a_width
    rows = sorted(
        (begin + n * step, begin + n * step + width)
        for begin, step, width, count in (
            (a_begin, a_step, a_width, len(a)),
            (b_begin, b_step, b_width, len(b)),
        )
        for n in range(count)
    )
    return any(end > begin for (_, end), (begin, _) in pairwise(rows))


def _rows_of(rows: torch.Tensor) -> tuple[int, int, int]:
    """In bytes: where rows begin, how far apart they are, and how long each is."""
    size = rows.element_size()
    width = rows.shape[1] * size
    return rows.data_ptr(), rows.stride(0) * size if len(rows) > 1 else width, width


@cache
def ops() -> dict[str, Op]:
    """All ops found in the folder, by name."""
    kernels: ModuleType = importlib.import_module("fastsaddle.kernels")
    folders = sorted(m.name for m in pkgutil.iter_modules(kernels.__path__) if m.ispkg)
    modules = (importlib.import_module(f"fastsaddle.kernels.{folder}") for folder in folders)
    found = (op for module in modules for op in vars(module).values() if isinstance(op, Op))
    return {op.name: op for op in found}
