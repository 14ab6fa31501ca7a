"""`fastsaddle reproduce`: make a committed table anew, from the same data, and hold it against what it was."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastsaddle.sim.commands.compare import Plan, compare
from fastsaddle.sim.comparison import tables
from fastsaddle.sim.comparison.grid_source import build
from fastsaddle.sim.help import with_help
from fastsaddle.sim.reproduction import deviation, hashes, source


@with_help
@dataclass(frozen=True)
class ReproduceOptions:
    """Make a committed table anew and compare: first the digests of data and splits, then means within a tolerance.

    Counted values (runs, bytes, gradients) must be equal. A mean accuracy may be off by 0.3 points (of the worst agent
    by one), or by three standard errors of the difference where that is more: other machines and versions of torch
    have other last bits. Exit status: 0 within, 1 beyond, 75 where --minutes were not enough; the same command goes on.
    """

    name: tyro.conf.Positional[str]
    """Of benchmarks/reproduction in a checkout, such as rho_sweep, or the path of a grid file with a folder beside."""

    data_dir: Path | None = None
    """Folder of the dataset's files."""

    out: Path | None = None
    """Where the runs are written. None: runs/reproduce-NAME."""

    jobs: int | None = None
    """Runs at once. None: one a core, one on a GPU."""

    minutes: float | None = None
    """Stop after so long, to go on later."""

    record: bool = False
    """Write the digests of data and splits instead, for a table that is to be committed."""


def main(arguments: list[str]) -> int:
    """Read the command line and do it. Raises ValueError or OSError for what cannot be, or is not the same data."""
    options = tyro.cli(ReproduceOptions, args=arguments, prog="fastsaddle reproduce")
    found = source.find(options.name)
    given = [] if options.data_dir is None else ["--data-dir", str(options.data_dir.resolve())]
    grid = build(found.grid, given)
    digests = hashes.found(cell.config for cell in (*grid.cells(), *grid.tuning_cells()))
    if options.record:
        hashes.write(found.hashes, digests)
        print(f"{found.hashes}: {len(digests)} digests")
        return 0
    committed = deviation.read(found.table)
    hashes.check(found.hashes, digests)
    print(f"data and splits are those of {found.table}: {len(digests)} digests", flush=True)
    out = options.out or Path("runs", f"reproduce-{found.name}")
    plan = Plan(
        out=out,
        command=shlex.join(["fastsaddle", "reproduce", *arguments]),
        jobs=options.jobs,
        minutes=options.minutes,
        sharpness="sam_sharpness" in committed[0],
    )
    console = Console()
    if status := compare(grid, plan, console):
        return status
    # imports what draws
    from fastsaddle.sim.api.comparison import Comparison

    rows = Comparison(out).rows
    names = tuple(
        name for name in committed[0] if name in rows[0] and name in tables.options_of(rows)
    )
    deviations = deviation.between(committed, rows, names)
    return told(deviations, console)


def told(deviations: list[deviation.Deviation], console: Console) -> int:
    """Print each row's worst deviation and the verdict; the exit status."""
    table = Table(title="committed, and made anew", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("row", "measure", "committed", "now", "off by", "allowed"):
        table.add_column(title, justify="left" if title in ("row", "measure") else "right")
    for row in dict.fromkeys(d.row for d in deviations):
        mine = [d for d in deviations if d.row == row]
        shown = [d for d in mine if not d.is_within] or [d for d in mine if d.measure == "accuracy"]
        for d in shown:
            numbers = (d.committed, d.found, abs(d.found - d.committed), d.allowed)
            table.add_row(escape(d.row), d.measure, *(f"{n:.5g}" for n in numbers))
    console.print(table)
    beyond = [d for d in deviations if not d.is_within]
    equal = sum(d.found == d.committed for d in deviations)
    verdict = f"{len(beyond)} beyond their tolerance" if beyond else "all within their tolerance"
    print(f"{len(deviations)} values, {equal} of them equal to the last digit, {verdict}")
    return 1 if beyond else 0
