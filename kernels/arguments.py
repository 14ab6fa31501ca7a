"""The kinds of arguments that ops take.

Each kind knows its piece of the operator's schema, what must hold of a value, and how the C function gets it. It tells
them as lines of Python in which every argument and every size has its name; kernels/generated.py makes functions of
them. Sizes are named by shapes: `[agents, columns]` binds both where they are not known yet.
"""

import re
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, NamedTuple

import torch

from fastsaddle.kernels._shared.bfloat16.reference import STATE_DTYPES

# every tensor of a row starts at a multiple of this many elements, and so does every column range
ALIGNMENT = 32

# kernels count the columns of one row in 32 bits; rows together may have more elements
MOST_COLUMNS = 2**31 - 2**14

LAYER_RULE = "layers must take what the ones before give, and lie within the columns of models"
INDEX_RULE = "every index must name a sample, in 0..samples-1"

C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bool: "bool",
    torch.uint8: "std::uint8_t",
    torch.int16: "std::int16_t",
    torch.int32: "std::int32_t",
    torch.int64: "std::int64_t",
}


class Passed(NamedTuple):
    """A parameter of a C function, and the Python that computes it."""

    type: str
    name: str
    value: str


def refusal(condition: str, message: str) -> str:
    """A line that raises ValueError where `condition` holds; `message` is the inside of an f-string."""
    return f'if {condition}: raise ValueError(f"{message}")'


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Argument:
    """One argument.

    Args:
        name: as in the schema.
        about: what it is, one phrase or more, for the docstring.
        default: what it is where it is left out, as Python and the schema write it; "" where it may not be.
    """

    name: str
    _: KW_ONLY
    about: str = ""
    default: str = ""
    # of tensors
    written, read, optional = False, True, False
    # classes of values that may reach an implementation as they are
    plain: ClassVar[tuple[type, ...]] = (tuple, list, torch.Size)

    @property
    def schema(self) -> str:
        """Its type in torch.library's language; what is written carries a mark `!` alone."""
        # each kind has its own
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """Its type and shape, for people."""
        # each kind has its own
        raise NotImplementedError

    @property
    def annotation(self) -> str:
        """Its type in Python."""
        # each kind has its own
        raise NotImplementedError

    def sizes(self, known: set[str]) -> Iterator[str]:
        """Lines that bind the sizes that it is the first to have."""
        yield from ()

    def checks(self, known: set[str]) -> Iterator[str]:
        """Lines that raise on a wrong value, and bind sizes."""
        yield from ()

    def passed(self) -> Iterator[Passed]:
        """What the C function gets."""
        # each kind has its own
        raise NotImplementedError


@dataclass(frozen=True)
class Int(Argument):
    """A whole number, within bounds where they are given; `most` may be an expression of sizes."""

    least: int | None = None
    most: int | str | None = None
    schema, annotation, plain = "int", "int", (int,)

    @property
    def kind(self) -> str:
        if self.most is None:
            return "int" if self.least is None else f"int, {self.least} or more"
        return f"int, {self.least} to {self.most}"

    def checks(self, known: set[str]) -> Iterator[str]:
        n = self.name
        if self.most is not None:
            yield refusal(
                f"not {self.least} <= {n} <= {self.most}",
                f"{n} must be in {self.least}..{{{self.most}}}, got {{{n}}}",
            )
        elif self.least is not None:
            # ctypes would cut longer numbers off
            yield refusal(
                f"not {self.least} <= {n} < 2**63",
                f"{n} must be >= {self.least}, and less than 2**63, got {{{n}}}",
            )

    def passed(self) -> Iterator[Passed]:
        yield Passed("std::int64_t", self.name, self.name)


@dataclass(frozen=True)
class Flag(Argument):
    """True or False."""

    schema, kind, annotation, plain = "bool", "bool", "bool", (bool,)

    def passed(self) -> Iterator[Passed]:
        yield Passed("std::int64_t", self.name, self.name)


@dataclass(frozen=True)
class Number(Argument):
    """A Python float."""

    schema, kind, annotation, plain = "float", "float", "float", (float,)

    def passed(self) -> Iterator[Passed]:
        yield Passed("double", self.name, self.name)


@dataclass(frozen=True)
class Pair(Argument):
    """Two whole numbers, vertical and horizontal."""

    least: int = 0
    schema, annotation = "int[2]", "tuple[int, int]"

    @property
    def kind(self) -> str:
        return f"(vertical, horizontal), {self.least} or more"

    def checks(self, known: set[str]) -> Iterator[str]:
        n = self.name
        yield refusal(
            f"len({n}) != 2 or min({n}) < {self.least}",
            f"{n} must be two numbers >= {self.least}, got {{list({n})}}",
        )

    def passed(self) -> Iterator[Passed]:
        for place, direction in enumerate(("down", "right")):
            yield Passed("std::int64_t", f"{self.name}_{direction}", f"{self.name}[{place}]")


@dataclass(frozen=True)
class Given(Argument):
    """A tensor.

    Args:
        written: the op writes to it.
        read: the op reads it; one that is written alone is overwritten.
        optional: it may be None.
    """

    _: KW_ONLY
    written: bool = False
    read: bool = True
    optional: bool = False

    @property
    def schema(self) -> str:
        mark = "(!)" if self.written else ""
        return f"Tensor{mark}{'?' * self.optional}"

    @property
    def annotation(self) -> str:
        return "torch.Tensor | None" if self.optional else "torch.Tensor"

    @property
    def plain(self) -> tuple[type, ...]:  # type: ignore[override]
        tensors = (torch.Tensor, torch.nn.Parameter)
        return (*tensors, type(None)) if self.optional else tensors

    def of(self, value: str) -> str:
        """A value that may not be there: None, which is a null pointer."""
        return f"None if {self.name} is None else {value}" if self.optional else value

    @property
    def address(self) -> str:
        """Where its memory begins; 0 where there is none."""
        return f"{self.name}.data_ptr()" + f" if {self.name} is not None else 0" * self.optional

    def pointer(self, dtype: torch.dtype | None) -> Passed:
        const = "" if self.written else "const "
        c_type = "void" if dtype is None else C_TYPES[dtype]
        return Passed(f"{const}{c_type}*", self.name, self.of(f"{self.name}.data_ptr()"))

    def stride(self) -> Passed:
        value = f"{self.name}.stride()[0]"
        value = f"0 if {self.name} is None else {value}" if self.optional else value
        return Passed("std::int64_t", f"{self.name}_stride", value)


@dataclass(frozen=True)
class Rows(Given):
    """Models or what is shaped like them: float32, columns side by side, rows at multiples of 32 elements."""

    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32,)
    layout = "[agents, columns]"

    @property
    def kind(self) -> str:
        return f"`{self.layout}` {' or '.join(map(short, self.dtypes))}"

    def sizes(self, known: set[str]) -> Iterator[str]:
        if "columns" not in known:
            known |= {"agents", "columns"}
            yield f"agents, columns = {self.name}.shape"

    def checks(self, known: set[str]) -> Iterator[str]:
        n = self.name
        is_first = "columns" not in known
        yield self._dtype_check()
        if is_first:
            yield refusal(
                f"{n}.dim() != 2", f"{n} must be [agents, columns], got {{tuple({n}.shape)}}"
            )
            yield from self.sizes(known)
            yield refusal(
                f"agents < 1 or columns < 1 or columns % {ALIGNMENT}",
                f"{n} needs at least one agent and a multiple of {ALIGNMENT} columns, got {{tuple({n}.shape)}}",
            )
            yield refusal(
                f"columns > {MOST_COLUMNS}",
                f"{n} may have at most {MOST_COLUMNS} columns, got {{columns}}",
            )
        else:
            yield refusal(
                f"{n}.shape != (agents, columns)",
                f"{n} must be [agents, columns] = {{(agents, columns)}}, got {{tuple({n}.shape)}}",
            )
        yield self._stride_check("agents")

    def _dtype_check(self) -> str:
        n = self.name
        wrong = " and ".join(f"{n}.dtype is not {short(dtype)}" for dtype in self.dtypes)
        return refusal(
            f"{wrong} or {n}.device != device_",
            f"{n} must be {' or '.join(map(short, self.dtypes))} on {{device_}}, "
            f"got {{{n}.dtype}} on {{{n}.device}}",
        )

    def _stride_check(self, rows: str) -> str:
        n = self.name
        return refusal(
            f"(stride_ := {n}.stride())[1] != 1 or "
            f"{rows} > 1 and (stride_[0] % {ALIGNMENT} or stride_[0] < columns)",
            f"{n} needs adjacent columns and a row stride that is a multiple of {ALIGNMENT}, got strides {{stride_}}",
        )

    def passed(self) -> Iterator[Passed]:
        yield self.pointer(*self.dtypes)
        yield self.stride()


@dataclass(frozen=True)
class State(Rows):
    """Rows of state: float32, or bfloat16 that is widened to read and rounded to write."""

    dtypes = STATE_DTYPES

    def passed(self) -> Iterator[Passed]:
        yield self.pointer(None)
        yield self.stride()
        is_half = f"{self.name}.dtype is bfloat16"
        is_half = f"{self.name} is not None and {is_half}" if self.optional else is_half
        yield Passed("std::int64_t", f"{self.name}_is_half", is_half)


@dataclass(frozen=True)
class Received(Rows):
    """Rows of which there may be others than agents: the agents' own and behind them those that were received.

    Args:
        any_number: there may be fewer rows than agents.
    """

    any_number: bool = False

    @property
    def layout(self) -> str:  # type: ignore[override]
        return "[rows, columns]" if self.any_number else "[agents + foreign, columns]"

    def sizes(self, known: set[str]) -> Iterator[str]:
        known.add("stacked")
        yield f"stacked = {self.name}.shape[0]"

    def checks(self, known: set[str]) -> Iterator[str]:
        n = self.name
        yield refusal(
            f"{n}.dim() != 2 or {n}.shape[1] != columns or {n}.shape[0] < "
            + ("1" if self.any_number else "agents"),
            f"{n} must be {self.layout} with at least {{{'1' if self.any_number else 'agents'}}} rows "
            f"of {{columns}} columns, got {{tuple({n}.shape)}}",
        )
        yield refusal(f"{n}.device != device_", f"{n} must be on {{device_}}, got {{{n}.device}}")
        yield from self.sizes(known)
        yield self._dtype_check()
        yield self._stride_check("stacked")


@dataclass(frozen=True)
class ReceivedState(Received, State):
    """Rows of state of which there may be others than agents."""


@dataclass(frozen=True)
class Rate(Given):
    """One value for all agents, 0-d, or one for each, `[agents]`."""

    dtype: torch.dtype = torch.float32

    @property
    def kind(self) -> str:
        return f"{short(self.dtype)}, 0-d or `[agents]`"

    def checks(self, known: set[str]) -> Iterator[str]:
        n, dtype = self.name, short(self.dtype)
        yield refusal(
            f"{n}.dtype is not {dtype} or {n}.device != device_ or {n}.dim() and "
            f"({n}.shape != (agents,) or not {n}.is_contiguous())",
            f"{n} must be {self.dtype}, 0-d or [agents] = ({{agents}},) and contiguous, on {{device_}}, "
            f"got {{{n}.dtype}} {{tuple({n}.shape)}} on {{{n}.device}}",
        )

    def passed(self) -> Iterator[Passed]:
        yield self.pointer(self.dtype)
        yield Passed("std::int64_t", f"{self.name}_step", f"{self.name}.dim()")


@dataclass(frozen=True)
class Array(Given):
    """A tensor whose sizes have names.

    Args:
        dtype: what it must be; several, or None where a rule of the op's says.
        shape: sizes, names and whole expressions of them between commas. Names that are not known yet are bound,
            and are at least 1.
        apart: each agent's part is contiguous, but parts may lie apart; else all is contiguous.
        strided: nothing is asked of strides, and the C function does not get it.
        may_be_empty: sizes that it binds may be 0.
    """

    dtype: torch.dtype | tuple[torch.dtype, ...] | None = torch.float32
    shape: str = "agents"
    _: KW_ONLY
    apart: bool = False
    strided: bool = False
    may_be_empty: bool = False

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        if self.dtype is None:
            return ()
        return self.dtype if isinstance(self.dtype, tuple) else (self.dtype,)

    @property
    def kind(self) -> str:
        dtypes = f" {' or '.join(map(short, self.dtypes))}" if self.dtypes else ""
        return f"`[{self.shape}]`{dtypes}"

    @property
    def parts(self) -> list[str]:
        return re.split(r", (?![^(]*\))", self.shape)

    def free(self, known: set[str]) -> list[str]:
        """Sizes that it binds."""
        return [part for part in self.parts if part.isidentifier() and part not in known]

    def sizes(self, known: set[str]) -> Iterator[str]:
        free = self.free(known)
        known |= {*free}
        for size in free:
            yield f"{size} = {self.name}.shape[{self.parts.index(size)}]"

    def checks(self, known: set[str]) -> Iterator[str]:
        n, rank = self.name, len(self.parts)
        if free := self.free(known):
            empty, rule = (
                ("", "") if self.may_be_empty else (f" or 0 in {n}.shape", ", no size may be 0")
            )
            yield refusal(
                f"{n}.dim() != {rank}{empty}",
                f"{n} must be [{self.shape}]{rule}, got {{tuple({n}.shape)}}",
            )
            yield from self.sizes(known)
        shape = f"({self.shape},)"
        wrong = []
        if self.dtypes:
            wrong.append(
                "(" + " and ".join(f"{n}.dtype is not {short(d)}" for d in self.dtypes) + ")"
            )
        wrong.append(f"{n}.device != device_")
        if set(self.parts) != {*free}:
            wrong.append(f"{n}.shape != {shape}")
        if self.apart:
            wrong.append(f"not {n}[0].is_contiguous()")
            if self.written:
                wrong.append(f"agents > 1 and {n}.stride()[0] < {n}[0].numel()")
        elif not self.strided:
            wrong.append(f"not {n}.is_contiguous()")
        dtypes = f"{' or '.join(map(str, self.dtypes))} " if self.dtypes else ""
        how = ", each agent's part contiguous" if self.apart else ", contiguous"
        yield refusal(
            " or ".join(wrong),
            f"{n} must be {dtypes}[{self.shape}] = {{{shape}}} on {{device_}}{how * (not self.strided)}, "
            f"got {{{n}.dtype}} {{tuple({n}.shape)}} on {{{n}.device}}, strides {{{n}.stride()}}",
        )

    def passed(self) -> Iterator[Passed]:
        yield self.pointer(self.dtypes[0] if len(self.dtypes) == 1 else None)
        if self.apart:
            yield self.stride()


@dataclass(frozen=True)
class Parts(Argument):
    """Several float32 tensors `[agents, ...]`, each agent's part contiguous."""

    schema, annotation = "Tensor[]", "Sequence[torch.Tensor]"
    kind = "tensors `[agents, ...]` float32, each agent's part contiguous"

    def checks(self, known: set[str]) -> Iterator[str]:
        wrong = (
            "part_.dtype is not float32 or part_.device != device_ or part_.dim() < 1 or part_.shape[0] != agents "
            "or not part_[0].is_contiguous()"
        )
        message = (
            "part {number_} must be float32 [agents, ...] with {agents} agents, each contiguous, on {device_}, "
            "got {part_.dtype} {tuple(part_.shape)} with strides {part_.stride()} on {part_.device}"
        )
        yield f"for number_, part_ in enumerate({self.name}):"
        yield "    " + refusal(wrong, message)

    def passed(self) -> Iterator[Passed]:
        n = self.name
        yield Passed("const float* const*", n, f"pointers_({n})")
        strides, elements = ("part_.stride(0)", "part_.numel() // agents")
        for what, value in (("strides", strides), ("elements", elements)):
            numbers = f"numbers_([{value} for part_ in {n}])"
            yield Passed("const std::int64_t*", f"{n}_{what}", numbers)
        yield Passed("std::int64_t", f"{n}_count", f"len({n})")


@dataclass(frozen=True)
class Ints(Argument):
    """Several whole numbers; a rule of the op's says how many."""

    schema, kind, annotation = "int[]", "whole numbers", "Sequence[int]"

    def passed(self) -> Iterator[Passed]:
        yield Passed("const std::int64_t*", self.name, f"numbers_({self.name})")


def lists(name: str = "neighbors", about: str = "", weights: str = "") -> tuple[Array, Array]:
    """Lists of rows and their weights, padded with -1."""
    return (
        Array(name, torch.int32, "agents, width", about=about),
        Array("weights", torch.float32, "agents, width", about=weights),
    )


def draws() -> tuple[Int, Rate, Int]:
    """What random bits are counted by."""
    return (
        Int("seed", 0, about="key of the draws"),
        Rate("step", torch.int64, about="number of the round that the draws are for"),
        Int("first_agent", 0, "2**32 - agents", about="number of the first row's agent"),
    )


def per_agent(scalar: torch.Tensor) -> torch.Tensor:
    """A scalar argument as a column that broadcasts over rows."""
    return scalar if scalar.dim() == 0 else scalar[:, None]
