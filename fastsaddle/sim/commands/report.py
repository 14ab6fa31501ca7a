"""`fastsaddle report`: one HTML page about runs or comparisons."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from fastsaddle.sim.help import with_help

NAME = "report.html"


@with_help
@dataclass(frozen=True)
class ReportOptions:
    """One self-contained HTML page about runs and comparisons."""

    directory: tyro.conf.Positional[tuple[Path, ...]]
    """Of runs or of comparisons."""

    out: Path | None = None
    """The page. None: report.html in the first directory."""

    data_dir: Path | None = None
    """Where the data are now, if they moved."""

    samples: int = 1000
    """Training samples of the loss surface."""

    points: int = 21
    """Points of the loss surface in each direction, odd."""

    surface: bool = True
    """Draw the loss surface."""


def main(arguments: list[str]) -> int:
    """Read the command line and write the page. Raises ValueError or OSError for what is no run or comparison."""
    options = tyro.cli(ReportOptions, args=arguments, prog="fastsaddle report")
    typed = {a.partition("=")[0] for a in arguments}
    idle = sorted(typed & {"--samples", "--points", "--data-dir"})
    if not options.surface and idle:
        raise ValueError(f"{idle[0]} is for the loss surface, which --no-surface leaves out")
    if not options.directory:
        raise ValueError("report needs the directory of a run or of a comparison")
    # the package that draws takes longer to import than --help should
    from fastsaddle.sim.report.page import write

    page = write(
        list(options.directory),
        options.out or options.directory[0] / NAME,
        surface=options.surface,
        samples=options.samples,
        points=options.points,
        data_dir=options.data_dir,
        # the page's name alone goes to standard output
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(page)
    return 0
