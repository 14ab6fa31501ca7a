"""`fastsaddle compare`: tune, run what is missing of a grid, and write its table and picture."""

import hashlib
import json
import multiprocessing
import os
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fastsaddle.sim import choices, methods
from fastsaddle.sim.commands.stopped import StoppedError
from fastsaddle.sim.commands.train import UNFINISHED
from fastsaddle.sim.comparison import latex, pool, results, tables, tuning
from fastsaddle.sim.comparison.grid import Cell, Grid, varied
from fastsaddle.sim.comparison.progress import ComparisonProgress
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run import faults
from fastsaddle.sim.run.interrupts import Interrupts
from fastsaddle.sim.run.labels import Labels, of_agents, of_gradient
from fastsaddle.sim.run.messages import NONE
from fastsaddle.sim.run.summary import split_name
from fastsaddle.sim.run.whole_files import write_synced
from fastsaddle.sim.trackers import _choice as trackers

PLOT, RECORD = "comparison.png", "compare.json"


@dataclass(frozen=True)
class Plan:
    """Where a comparison is written and how it is carried out.

    `command` is the line that goes on with it, `jobs` are processes (None: one a core on a CPU, one on a GPU),
    `minutes` a bound on the time, `sharpness` asks for the sharpness of every final consensus model, `columns` are the
    measures in table.tex.

    Raises ValueError for jobs or minutes that are not above 0.
    """

    out: Path
    command: str
    jobs: int | None = None
    minutes: float | None = None
    sharpness: bool = False
    columns: tuple[str, ...] = latex.USUAL

    def __post_init__(self) -> None:
        for name, value in (("jobs", self.jobs), ("minutes", self.minutes)):
            if value is not None and not value > 0:
                raise ValueError(f"--{name} must be > 0, got {value}")


def default_out(grid: Grid) -> Path:
    """The same directory whenever the same grid is asked for, so that the same command goes on."""
    content = json.dumps([cell.name for cell in (*grid.cells(), *grid.tuning_cells())])
    return Path("runs", f"compare-{hashlib.sha256(content.encode()).hexdigest()[:10]}")


def compare(grid: Grid, plan: Plan, console: Console) -> int:
    """Run a grid to its end, a signal or its deadline; the exit status as that of `train`.

    Raises what a run raises (ValueError, OSError) for options that do not fit together.
    """
    deadline = float("inf") if plan.minutes is None else time.time() + 60 * plan.minutes
    plan.out.mkdir(parents=True, exist_ok=True)
    chosen: list[tuning.Chosen] = []
    notes: list[str] = []
    tuning_cells = grid.tuning_cells()
    with Interrupts("what each run is at, a step or an evaluation") as interrupts:
        if tuning_cells:
            if not (plan.out / RECORD).exists():
                # a comparison already, if one without runs
                _record(plan.out, [], tuning_cells, [])
            if not _run(tuning_cells, "tuning", plan, console, interrupts, deadline):
                return _stopped(plan, interrupts)
            chosen = tuning.choose(grid, _outcomes(tuning_cells, plan.out))
            labels = Labels(cell.config for cell in tuning_cells)
            notes = [f"chosen for {choice.note(labels)}" for choice in chosen]
            print("".join(f"{note}\n" for note in notes), end="", flush=True)
        cells = grid.cells(choice.as_override() for choice in chosen)
        _record(plan.out, cells, tuning_cells, chosen)
        if not _run(cells, "runs", plan, console, interrupts, deadline):
            return _stopped(plan, interrupts)
    # imports matplotlib, which the help of a comparison and its runs do without
    from fastsaddle.sim.comparison import plot

    groups = results.group(_outcomes(cells, plan.out), varied(cells), grid.tuned)
    tables.write(plan.out, groups, notes, plan.columns)
    title = _title(cells)
    plot.draw(plan.out / PLOT, groups, grid.tuned, title)
    console.print(tables.show(groups, title, console))
    for name in ("table.md", "table.csv", "table.tex", PLOT, RECORD):
        print(plan.out / name)
    print(f"fastsaddle report {plan.out}")
    return 0


def _title(cells: list[Cell]) -> str:
    """What all runs have in common."""
    config, apart = cells[0].config, varied(cells)
    labels = Labels(cell.config for cell in cells)
    shown = {
        "algorithm": labels.of("algorithm", config.algorithm),
        "dataset": labels.of("dataset", config.dataset),
        "model": labels.of("model", config.model),
        "gradient": of_gradient(labels.of("gradient", config.gradient)),
        "agents": of_agents(config.agents),
        "topology": labels.of("topology", config.topology),
        "alpha": split_name(config, labels),
        "compressor": ""
        if config.compressor == NONE
        else labels.of("compressor", config.compressor),
        "rho": f"rho {config.rho:g}"
        if methods.takes(config.algorithm, "rho", config.gradient)
        else "",
    }
    hidden = [*apart, *(["rho"] if "algorithm" in apart else [])]
    return ", ".join(text for name, text in shown.items() if text and name not in hidden)


def directory_of(cell: Cell) -> Path:
    """A run's directory inside the comparison's."""
    return Path("cells", cell.name)


def _run(
    cells: list[Cell],
    what: str,
    plan: Plan,
    console: Console,
    interrupts: Interrupts,
    deadline: float,
) -> bool:
    """Run the cells that are not done yet; whether all of them are done then."""
    paths = {cell.name: plan.out / directory_of(cell) for cell in cells}
    left = [c for c in cells if not pool.is_done(paths[c.name], plan.sharpness)]
    print(
        f"{len(cells)} {what}, {len(cells) - len(left)} of them done before; {plan.out}", flush=True
    )
    if not left:
        return True
    workers, threads = _workers(plan.jobs, left)
    work = [(paths[c.name], _resolved(c.config, threads)) for c in left]
    stop = multiprocessing.get_context("spawn").Event()
    done = len(cells) - len(left)
    try:
        with ComparisonProgress(console, what, cells, paths) as progress:
            for path in pool.run_all(work, workers, stop, deadline, plan.sharpness):
                if path is not None:
                    done += 1
                    progress.show_finished(path, done)
                progress.update()
                if interrupts.received:
                    stop.set()
    except BrokenProcessPool as error:
        raise StoppedError(
            f"a run's process was killed, perhaps for want of memory (fewer --jobs need less); "
            f"the same command goes on: {plan.command}"
        ) from error
    return done == len(cells)


def _resolved(config: TrainConfig, threads: int | None) -> TrainConfig:
    return replace(config, threads=config.threads or threads)


def _workers(jobs: int | None, left: list[Cell]) -> tuple[int, int | None]:
    """Processes, and the threads of each: runs side by side need less time than one on all cores."""
    import torch

    on_gpu = left[0].config.device != "cpu" and torch.cuda.is_available()
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if on_gpu:
        return jobs or 1, None
    workers = min(jobs or cores, len(left))
    return workers, max(1, cores // (jobs or cores))


def _outcomes(cells: list[Cell], out: Path) -> list[results.Outcome]:
    found = (results.read(cell, out / directory_of(cell)) for cell in cells)
    return [outcome for outcome in found if outcome is not None]


def _stopped(plan: Plan, interrupts: Interrupts) -> int:
    print(f"stopped; the same command goes on:\n{plan.command}", flush=True)
    return 128 + interrupts.received if interrupts.received else UNFINISHED


def _record(
    out: Path, cells: list[Cell], tuning_cells: list[Cell], chosen: list[tuning.Chosen]
) -> None:
    """Write compare.json: which runs there are, where, and what was chosen."""
    content = {
        "varied": varied(cells),
        "cells": [_entry(cell) for cell in cells],
        "tuning": [_entry(cell) for cell in tuning_cells],
        "chosen": [_stored(choice) for choice in chosen],
    }
    write_synced(out / RECORD, json.dumps(content, indent=1) + "\n")


def _entry(cell: Cell) -> dict[str, Any]:
    return {"directory": str(directory_of(cell)), "options": _absolute(cell.config.plain())}


def _stored(choice: tuning.Chosen) -> dict[str, Any]:
    parts = {"when": _absolute(choice.when), "values": _absolute(choice.values)}
    return {**asdict(choice), **parts}


def _absolute(options: dict[str, Any]) -> dict[str, Any]:
    """The same options, readable from any directory."""
    further = {"faults": faults.absolute, "track": trackers.absolute}
    absolute = {**dict.fromkeys(choices.OPTIONS, choices.absolute), **further}
    return {n: absolute[n](v) if n in absolute and v is not None else v for n, v in options.items()}
