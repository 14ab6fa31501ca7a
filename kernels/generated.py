"""Functions made of an op's list of arguments: its checks, its signature, and the call of its C function.

What is checked and passed is told once, by the list. The functions are compiled from source, as those of dataclasses
are: a loop over the list would take longer than small kernels do. Tracebacks show the source.
"""

import ctypes
import inspect
import linecache
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from fastsaddle.kernels.arguments import (
    C_TYPES,
    Argument,
    Array,
    Given,
    Int,
    Passed,
    Received,
    Rows,
    refusal,
    short,
)

Arguments = Sequence[Argument]
# a rule of an op's own: takes some of its arguments, by their names, and raises
Rule = Callable[..., None]

CTYPES = {"std::int64_t": ctypes.c_int64, "double": ctypes.c_double}
DTYPES = {short(dtype): dtype for dtype in (*C_TYPES, torch.bfloat16)}


def schema(name: str, arguments: Arguments, returns: bool) -> str:
    """The operator in torch.library's language; what is written carries alias marks in order."""
    marks = iter("abcdefgh")

    def typed(argument: Argument) -> str:
        kind = argument.schema
        kind = kind.replace("(!)", f"({next(marks)}!)") if "(!)" in kind else kind
        return f"{kind} {_with_default(argument, argument.name)}"

    return f"{name}({', '.join(map(typed, arguments))}) -> {'Tensor' if returns else '()'}"


def binder(name: str, arguments: Arguments) -> Callable[..., tuple[Any, ...]]:
    """A function of the op's signature that gives its arguments in order, with defaults."""
    annotated = (_with_default(a, f"{a.name}: {a.annotation}", " = ") for a in arguments)
    names = "".join(f"{a.name}, " for a in arguments)
    return _compiled(
        name,
        "signature",
        ", ".join(annotated),
        [f"return ({names})"],
        {"torch": torch, "Sequence": Sequence},
    )


def checker(name: str, arguments: Arguments, rules: Sequence[Rule]) -> Callable[..., None]:
    """A function that raises ValueError on wrong arguments; it reads shapes, dtypes, strides and devices only."""
    known = _numbered(arguments)
    lines = [f"device_ = {first(arguments).name}.device"]
    for argument in _in_order(arguments):
        found = [*argument.checks(known)]
        if found and argument.optional:
            lines += [f"if {argument.name} is not None:", *(f"    {line}" for line in found)]
        else:
            lines += found
    names: dict[str, Any] = dict(DTYPES)
    for number, rule in enumerate(rules):
        names[f"rule_{number}"] = rule
        lines.append(f"rule_{number}({_named_by(rule)})")
    return _compiled(name, "checks", _plain_signature(arguments), lines, names)


def memory_checker(name: str, arguments: Arguments) -> Callable[..., None]:
    """A function that raises ValueError where what is written begins where rows or arrays of its dtype do."""
    given = [a for a in arguments if isinstance(a, Rows | Array)]
    others = {
        a.name: [b.name for b in given if b is not a and _may_be_alike(a, b)]
        for a in given
        if a.written
    }
    seen = {*others, *(other for each in others.values() for other in each)}
    lines = [f"{a.name}_at = {a.address}" for a in given if a.name in seen]
    for written, each in others.items():
        lines.append(
            refusal(
                f"{written}_at and {written}_at in ({''.join(f'{other}_at, ' for other in each)})",
                f"{written} is written and must not share memory with {' or '.join(each)}",
            )
        )
    return _compiled(name, "memory", _plain_signature(arguments), lines or ["pass"], {})


def _may_be_alike(a: Rows | Array, b: Rows | Array) -> bool:
    """Whether both may have one dtype; an op's own rule says where none is listed."""
    return not (a.dtypes and b.dtypes) or bool({*a.dtypes} & {*b.dtypes})


def picked(name: str, arguments: Arguments, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which takes some of the arguments, as one that takes all."""
    lines = [f"return function({_named_by(function)})"]
    return _compiled(name, "made", _plain_signature(arguments), lines, {"function": function})


def parameters(arguments: Arguments) -> list[Passed]:
    """Those of the op's C function: of each argument in the list's order, then sizes; threads come last."""
    passed = [parameter for argument in arguments for parameter in argument.passed()]
    known = _numbered(arguments)
    sizes: list[str] = []
    for argument in _in_order(arguments):
        before = set(known)
        lines = [*argument.sizes(known)]
        # in the order in which the lines bind them
        sizes += [n for n in _bound(lines) if n not in before]
    passed += [Passed("std::int64_t", size, size) for size in sizes]
    return [*passed, Passed("std::int64_t", "threads", "threads_()")]


def ctypes_of(arguments: Arguments) -> list[type]:
    """The same as ctypes has them."""
    return [CTYPES.get(p.type, ctypes.c_void_p) for p in parameters(arguments)]


def caller(
    name: str,
    arguments: Arguments,
    symbol: Callable[..., int],
    threads: Callable[[], int],
    refuse: Callable[[int], None],
) -> Callable[..., None]:
    """A function of arguments that have been checked, which calls `symbol` and has `refuse` raise what it reports."""
    known = _numbered(arguments)
    lines = [line for argument in _in_order(arguments) for line in argument.sizes(known)]
    values = ", ".join(p.value for p in parameters(arguments))
    lines += [f"status_ = symbol_({values})", "if status_: refuse_(status_)"]
    names = {
        **DTYPES,
        **{"symbol_": symbol, "threads_": threads, "refuse_": refuse},
        **{"pointers_": _pointers, "numbers_": _numbers},
    }
    return _compiled(name, "native", _plain_signature(arguments), lines, names)


def _pointers(tensors: Sequence[torch.Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])


def _numbers(numbers: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _numbered(arguments: Arguments) -> set[str]:
    """Names that shapes may use from the first on: those of numbers."""
    return {a.name for a in arguments if isinstance(a, Int)}


def first(arguments: Arguments) -> Argument:
    """The one that tells agents, columns and device: the first rows of agents, else the first tensor."""
    given = [a for a in arguments if isinstance(a, Given) and not a.optional]
    return next((a for a in given if isinstance(a, Rows) and not isinstance(a, Received)), given[0])


def _in_order(arguments: Arguments) -> list[Argument]:
    base = first(arguments)
    return [base, *(a for a in arguments if a is not base)]


def _named_by(function: Callable[..., Any]) -> str:
    return ", ".join(f"{name}={name}" for name in inspect.signature(function).parameters)


def _bound(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield from line.partition(" = ")[0].split(", ")


def _with_default(argument: Argument, text: str, equals: str = "=") -> str:
    return f"{text}{equals}{argument.default}" if argument.default else text


def _plain_signature(arguments: Arguments) -> str:
    return ", ".join(_with_default(a, a.name) for a in arguments)


def _compiled(
    name: str, what: str, signature: str, lines: Sequence[str], names: Mapping[str, Any]
) -> Callable[..., Any]:
    body = "".join(f"    {line}\n" for line in lines)
    source = f"def {name}({signature}):\n{body}"
    file = f"<fastsaddle.kernels.{name}: {what}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    namespace = dict(names)
    exec(compile(source, file, "exec"), namespace)
    return namespace[name]
