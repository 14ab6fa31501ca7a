"""A comparison from Python, carried out by the command in a process of its own.

Its runs are processes, which Python would start by running the caller's own script anew.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastsaddle
from fastsaddle.sim.api import options
from fastsaddle.sim.api.comparison import Comparison
from fastsaddle.sim.commands.compare import default_out
from fastsaddle.sim.commands.stopped import StoppedError
from fastsaddle.sim.commands.train import UNFINISHED
from fastsaddle.sim.comparison import latex
from fastsaddle.sim.comparison.grid_source import build

KINDS = {"jobs": int | None, "minutes": float | None}
# the exit status for options that cannot be
REFUSED = 2


def compare(
    grid: str | Path | None = None,
    *,
    out: str | Path | None = None,
    jobs: int | None = None,
    minutes: float | None = None,
    sharpness: bool = False,
    columns: Sequence[str] | None = None,
    quiet: bool = False,
    **given: Any,
) -> Comparison:
    """Compare algorithms, or sweep any option, on the same data and splits, as `fastsaddle compare` does.

    A run is done once: the same call goes on where it was stopped or killed, and a larger grid in the same `out` runs
    what is new.

    Args:
        grid: a grid file, TOML or YAML.
        out: the comparison's directory; None is runs/compare-DIGEST of the grid.
        jobs: runs at once; None is one a core, or one on a GPU.
        minutes: stop after so long, to go on later by the same call.
        sharpness: measure every final minimum.
        columns: measures in table.tex, by their names in `comparison.table`; None is accuracy, that of the worst agent,
            bytes, gradients and, where it was measured, SAM sharpness.
        quiet: print nothing.
        given: every option of `fs.sim.train` but `resume`, with one value or several:
            `algorithm=["qgm", "qsaddle"], seed=range(3)`. Without any: five algorithms, three seeds.

    Returns:
        The comparison; `comparison.is_finished` says whether `minutes` were enough.

    Raises:
        TypeError: an option that does not exist.
        ValueError, OSError: options that cannot be.
        StoppedError: a run's process was killed, or a file could not be written.
        KeyboardInterrupt: after Ctrl-C, when each run has written its checkpoint.
    """
    known = tuple(n for n in options.names() if n not in ("out", "resume", "minutes"))
    options.check_names("fs.sim.compare", given, known)
    words = options.texts(given)
    file, place = options.path("grid", grid), options.path("out", out)
    bounds = {"jobs": options.plain(jobs), "minutes": options.plain(minutes)}
    options.check_kinds(bounds, KINDS)
    found = build(file, words)
    place = place or default_out(found)
    call = [] if file is None else [str(file)]
    call += [*words, f"--out={place}", *(["--sharpness"] if sharpness else [])]
    if columns is not None:
        call += ["--columns", *latex.check_columns(columns)]
    for name, value in bounds.items():
        call += [] if value is None else [f"--{name}", str(value)]
    status, last = _carried_out(call, quiet)
    if status == 128 + signal.SIGINT:
        raise KeyboardInterrupt("stopped; the same call goes on")
    if status == REFUSED:
        raise ValueError(last or f"these options cannot be: {shlex.join(call)}")
    if status not in (0, UNFINISHED):
        raise StoppedError(last or f"the comparison's process ended with status {status}")
    return Comparison(place)


def _carried_out(words: list[str], quiet: bool) -> tuple[int, str]:
    """Run the command, its output passed on line by line; its exit status, and the error that it ended with."""
    folder = str(Path(fastsaddle.__file__).parents[1])
    paths = filter(None, (folder, os.environ.get("PYTHONPATH")))
    # a notebook's kernel claims colors and a terminal for its children
    claims = ("FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE")
    environment = {k: v for k, v in os.environ.items() if k not in claims}
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [sys.executable, "-m", "fastsaddle", "compare", *words]
    last = ""
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # Ctrl-C of a terminal would reach it too, and count twice
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        while True:
            try:
                for line in process.stdout:
                    if line.startswith("fastsaddle: error: "):
                        last = line.removeprefix("fastsaddle: error: ").strip()
                    elif not quiet:
                        print(line, end="", flush=True)
                break
            except KeyboardInterrupt:
                # Windows has no sessions: the console has told it already, and Popen could not
                if os.name != "nt":
                    process.send_signal(signal.SIGINT)
    return process.returncode, last
