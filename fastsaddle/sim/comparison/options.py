"""The command line of `fastsaddle compare`: a grid file, options with several values, and how to carry it out."""

import argparse
import shlex
from pathlib import Path

from rich.console import Console

from fastsaddle.sim.commands.compare import Plan, compare, default_out
from fastsaddle.sim.comparison.grid_source import build

EXAMPLES = """\
every option of `fastsaddle train` is an option here and takes several values:
  fastsaddle compare --algorithm dsgd qgm qsaddle --seed 0 1
  fastsaddle compare --algorithm qsaddle --rho 0 0.01 0.05 0.1 0.2 0.5 --seed 0 1 2 --sharpness
  fastsaddle compare --algorithm qgm qsaddle --alpha 0.01 0.1 1 10 --seed 0 1 2
  fastsaddle compare grid.toml --jobs 2 --minutes 30

a grid file (TOML or YAML) holds such options, and three tables besides:
  [tune]        candidates, of which the best on validation data is taken for the real runs
  [tuning]      what else is different in the runs that choose
  [[override]]  when = { algorithm = "dsgd" }, with options (or tune.OPTION) for that part of the grid

A run is done once: the same command goes on where it was stopped or killed, and a larger grid in
the same --out runs what is new. Without options: five algorithms, three seeds, digits.
"""


def main(arguments: list[str]) -> int:
    """Read the command line and run the comparison. Raises ValueError or OSError for what cannot be."""
    parser = argparse.ArgumentParser(
        prog="fastsaddle compare",
        usage="fastsaddle compare [GRID] [--OPTION VALUE ...] [--out DIR] [--jobs N] [--minutes M]",
        description="Compare algorithms, or sweep any option, on the same data and splits.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, help="default: runs/compare-DIGEST of the grid")
    parser.add_argument("--jobs", type=int, help="runs at once; default: one a core, 1 on a GPU")
    parser.add_argument("--minutes", type=float, help="stop after so long, to go on later")
    parser.add_argument("--sharpness", action="store_true", help="measure every final minimum")
    # not a positional argument of the parser, which would take values of options that it does not know
    is_file = bool(arguments) and not arguments[0].startswith("-")
    known, given = parser.parse_known_args(arguments[is_file:])
    for name in ("jobs", "minutes"):
        value = getattr(known, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} must be > 0, got {value}")
    grid = build(Path(arguments[0]) if is_file else None, given)
    plan = Plan(
        out=known.out or default_out(grid),
        command=shlex.join(["fastsaddle", "compare", *arguments]),
        jobs=known.jobs,
        minutes=known.minutes,
        sharpness=known.sharpness,
    )
    return compare(grid, plan, Console())
