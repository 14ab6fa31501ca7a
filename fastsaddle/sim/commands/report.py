"""`fastsaddle report`: one HTML page about runs or comparisons."""

import argparse
import sys
from pathlib import Path

NAME = "report.html"


def main(arguments: list[str]) -> int:
    """Read the command line and write the page. Raises ValueError or OSError for what is no run or comparison."""
    parser = argparse.ArgumentParser(
        prog="fastsaddle report",
        description="One self-contained HTML page about runs and comparisons.",
        allow_abbrev=False,
    )
    parser.add_argument("directory", nargs="+", type=Path, help="of a run or of a comparison")
    parser.add_argument(
        "--out", type=Path, help=f"the page; default: DIRECTORY/{NAME} of the first"
    )
    parser.add_argument("--data-dir", type=Path, help="where the data are now, if they moved")
    parser.add_argument(
        "--samples", type=int, default=1000, help="training samples of the loss surface; 1000"
    )
    parser.add_argument(
        "--points", type=int, default=21, help="points of the loss surface in each direction; 21"
    )
    parser.add_argument("--no-surface", action="store_true", help="leave the loss surface out")
    options = parser.parse_args(arguments)
    typed = {a.partition("=")[0] for a in arguments}
    idle = sorted(typed & {"--samples", "--points", "--data-dir"})
    if options.no_surface and idle:
        raise ValueError(f"{idle[0]} is for the loss surface, which --no-surface leaves out")
    # the package that draws takes longer to import than --help should
    from fastsaddle.sim.report.page import write

    page = write(
        options.directory,
        options.out or options.directory[0] / NAME,
        surface=not options.no_surface,
        samples=options.samples,
        points=options.points,
        data_dir=options.data_dir,
        # the page's name alone goes to standard output
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(page)
    return 0
