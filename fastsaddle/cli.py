"""The command `fastsaddle`: train, compare, report and info.

All but `info` need the packages of the [sim] extra, so they are imported when they are called.
"""

import argparse
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
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0, 2 for wrong options, 1 for a run that failed or got no memory, 75 for one
    that has not finished in time, 128 + n after signal n."""
    parser = argparse.ArgumentParser(
        prog="fastsaddle",
        description="Decentralized, sharpness-aware deep learning: many agents on one machine.",
        epilog="fastsaddle COMMAND --help lists the options of a command.",
    )
    parser.add_argument(
        "--version", action="version", version=f"fastsaddle {fastsaddle.__version__}"
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, (purpose, _) in COMMANDS.items():
        commands.add_parser(name, help=purpose, add_help=False)
    commands.add_parser(
        "info",
        help="show versions, devices, backends and copy bandwidth, or a model's memory",
        add_help=False,
    )
    known, rest = parser.parse_known_args(arguments)
    if known.command in COMMANDS:
        return _simulate(known.command, COMMANDS[known.command][1], rest)
    if rest:
        return _simulate("info with options", "fastsaddle.sim.commands.memory", rest)
    print(report(extra.missing()))
    return 0


def _simulate(command: str, module: str, arguments: list[str]) -> int:
    if (needed := extra.needs(command)) is not None:
        return _fail(needed)
    formatted, warnings.formatwarning = warnings.formatwarning, _as_line
    try:
        # which takes seconds, and may be interrupted as well
        run: Callable[[list[str]], int] = import_module(module).main
        return run(arguments)
    except StoppedError as error:
        return _fail(str(error), 1)
    except (ValueError, OSError, ImportError) as error:
        return _fail(str(error))
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
    return f"fastsaddle: warning: {' '.join(str(message).split())}\n"


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python or torch got no memory; torch says so on a GPU by a class of its own, on a CPU in words."""
    is_told = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or is_told


def _fail(message: str, status: int = 2) -> int:
    print(f"fastsaddle: error: {message}", file=sys.stderr)
    return status
