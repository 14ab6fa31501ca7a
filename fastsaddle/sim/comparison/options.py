"""The command line of `fastsaddle compare`: a grid file, options with several values, and how to carry it out."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from fastsaddle.sim.commands.compare import Plan, compare, default_out
from fastsaddle.sim.comparison import latex
from fastsaddle.sim.comparison.grid_source import build
from fastsaddle.sim.help import with_help


@with_help
@dataclass(frozen=True)
class CompareOptions:
    """Compare algorithms, or sweep any option, on the same data: fastsaddle compare [GRID] [--OPTION VALUE ...]

    Every option of `fastsaddle train` is an option here and takes several values:

      fastsaddle compare --algorithm dsgd qgm qsaddle --seed 0 1
      fastsaddle compare --algorithm qsaddle --rho 0 0.01 0.05 0.1 0.2 0.5 --seed 0 1 2 --sharpness
      fastsaddle compare --algorithm qgm qsaddle --alpha 0.01 0.1 1 10 --seed 0 1 2
      fastsaddle compare grid.toml --jobs 2 --minutes 30

    A grid file (TOML or YAML) holds such options, and three tables besides:

      [tune]        candidates, of which the best on validation data is taken for the real runs
      [tuning]      what else is different in the runs that choose
      [[override]]  when = { algorithm = "dsgd" }, with options (or tune.OPTION) for that part of the grid

    A run is done once: the same command goes on where it was stopped or killed, and a larger grid in the same --out
    runs what is new. Without options: five algorithms, three seeds, digits.
    """

    out: Path | None = None
    """The comparison's directory. None: runs/compare-DIGEST of the grid."""

    jobs: int | None = None
    """Runs at once. None: one a core, one on a GPU."""

    minutes: float | None = None
    """Stop after so long, to go on later."""

    sharpness: bool = False
    """Measure every final minimum."""

    columns: tuple[str, ...] = latex.USUAL
    """Measures in table.tex, where runs have them, of those in table.csv."""


def main(arguments: list[str]) -> int:
    """Read the command line and run the comparison. Raises ValueError or OSError for what cannot be."""
    # not a positional argument of the parser, which would take values of options that it does not know
    is_file = bool(arguments) and not arguments[0].startswith("-")
    known, given = tyro.cli(
        CompareOptions,
        args=arguments[is_file:],
        prog="fastsaddle compare",
        return_unknown_args=True,
    )
    columns = latex.check_columns(known.columns)
    grid = build(Path(arguments[0]) if is_file else None, given)
    plan = Plan(
        out=known.out or default_out(grid),
        command=shlex.join(["fastsaddle", "compare", *arguments]),
        jobs=known.jobs,
        minutes=known.minutes,
        sharpness=known.sharpness,
        columns=columns,
    )
    return compare(grid, plan, Console())
