"""The command `fastsaddle`: which of its commands is meant, and what ends it.

All but a plain `info` need the packages of the [sim] extra, so they are imported when they are called.
"""

import difflib
import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import fastsaddle
from fastsaddle.sim import extra
from fastsaddle.sim.commands.info import report
from fastsaddle.sim.commands.stopped import StoppedError

# command -> what it is for, and the module whose `main` takes its options
COMMANDS = {
    "train": ("train many agents on real data", "fastsaddle.sim.commands.train"),
    "compare": (
        "run a grid of trainings: a table and a picture",
        "fastsaddle.sim.comparison.options",
    ),
    "report": ("write one HTML page about runs or comparisons", "fastsaddle.sim.commands.report"),
    "plan": (
        "say what time, memory and bytes a run will take",
        "fastsaddle.sim.commands.plan",
    ),
    "reproduce": (
        "make a committed table anew, and hold it against what it was",
        "fastsaddle.sim.commands.reproduce",
    ),
    "export": ("write a trained model as a file for plain torch", "fastsaddle.sim.commands.export"),
    "info": (
        "show versions, devices, backends and copy bandwidth; with options a run's memory and graph",
        "fastsaddle.sim.commands.memory",
    ),
    "completion": (
        "print a script that lets a shell complete all this",
        "fastsaddle.sim.commands.completion",
    ),
}
# the number of the signal that ends a program whose reader has gone
PIPE = 13
HELP, VERSION = ("-h", "--help"), "--version"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0, 2 for wrong options, 1 for a run that failed or got no memory, 75 for one
    that has not finished in time, 128 + n after signal n."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return _run(words)
    except BrokenPipeError:
        # whoever read what was printed has gone; what Python flushes at its end would raise once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + PIPE


def _run(words: list[str]) -> int:
    if not words or words[0] in HELP:
        print(_overview())
        return 0 if words else 2
    if words[0] == VERSION:
        print(f"fastsaddle {fastsaddle.__version__}")
        return 0
    command, *rest = words
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        meant = f", did you mean {near[0]}?" if near else ""
        return _fail(f"no command {command!r}{meant} There are {', '.join(COMMANDS)}")
    if command == "info" and not rest:
        print(report(extra.missing()))
        return 0
    who = f"{command} with options" if command == "info" else command
    return _simulate(who, COMMANDS[command][1], rest)


def _overview() -> str:
    """What commands there are."""
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(
        [
            "usage: fastsaddle COMMAND [OPTIONS]",
            "",
            "Decentralized, sharpness-aware deep learning: many agents on one machine.",
            "",
            *(f"  {name:{width}}{purpose}" for name, (purpose, _) in COMMANDS.items()),
            "",
            "fastsaddle COMMAND --help lists the options of a command; fastsaddle --version shows the version.",
        ]
    )


def _simulate(command: str, module: str, arguments: list[str]) -> int:
    if (needed := extra.needs(command)) is not None:
        return _fail(needed)
    formatted, warnings.formatwarning = warnings.formatwarning, _as_line
    try:
        # which takes seconds, and may be interrupted as well
        run: Callable[[list[str]], int] = import_module(module).main
        return run(arguments)
    except StoppedError as error:
        return _fail(_as_typed(str(error)), 1)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError) as error:
        return _fail(_as_typed(str(error)))
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        detail = f" ({str(error).splitlines()[0]})" if str(error) else ""
        ways = "fewer --agents, a smaller --model or --batch-size, or a --chunk need less"
        return _fail(f"out of memory{detail}: {ways}", 1)
    finally:
        warnings.formatwarning = formatted


def _as_line(message: Warning | str, *place: Any, **line: Any) -> str:
    """A warning as users of the command line need it: without the line of code that it comes from."""
    return f"fastsaddle: warning: {_as_typed(' '.join(str(message).split()))}\n"


def _as_typed(message: str) -> str:
    """What the library says, in words of the command line; its list of options is read when there is an error."""
    from fastsaddle.sim.commands.spelling import as_typed

    return as_typed(message)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python or torch got no memory; torch says so on a GPU by a class of its own, on a CPU in words."""
    is_told = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or is_told


def _fail(message: str, status: int = 2) -> int:
    print(f"fastsaddle: error: {message}", file=sys.stderr)
    return status
