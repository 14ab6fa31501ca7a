"""What an op says about itself: its docstring, made of its folder's text and its list of arguments."""

import sys
import textwrap
from typing import TYPE_CHECKING

from fastsaddle.kernels.arguments import Argument

if TYPE_CHECKING:
    from fastsaddle.kernels.op import Op

WIDTH = 100
RAISES = (
    "ValueError: an argument is of another kind than is said above, or does not fit the others",
    "ImportError: the backend that was asked for cannot run here",
)


def text(op: "Op") -> str:
    """What it computes: its own text, or that of its folder."""
    return (op.doc or sys.modules[op.folder].__doc__ or "").strip()


def docstring(op: "Op") -> str:
    """Text, arguments and errors; what is said about rounding comes last."""
    told, rounding, bits = text(op).partition("\n\nRounding:")
    lines = [told, "", "Args:", *(_entry(f"{a.name}: {phrase(a)}.") for a in op.arguments)]
    if op.makes is not None:
        lines += ["", "Returns:", _entry("a new tensor, contiguous.")]
    lines += ["", "Raises:", *(_entry(f"{line}.") for line in RAISES)]
    return "\n".join(lines) + rounding + bits


def phrase(argument: Argument) -> str:
    """Kind, what becomes of it, and what it is."""
    kind = argument.kind + (" or None" if argument.optional else "")
    fate = "" if not argument.written else ", updated" if argument.read else ", overwritten"
    default = f", by default {argument.default}" if argument.default else ""
    return f"{kind}{fate}{default}" + (f": {argument.about}" if argument.about else "")


def _entry(line: str) -> str:
    return textwrap.fill(line, WIDTH, initial_indent="    ", subsequent_indent="        ")
