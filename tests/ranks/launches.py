"""`fastsaddle train` as torchrun launches it, or in forks, which start in a moment: importing torch takes seconds."""

from __future__ import annotations

import multiprocessing as mp
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

# where it is first used it takes seconds, too
import fastsaddle.sim.commands.ranks
import fastsaddle.sim.run.plots  # noqa: F401
from fastsaddle.cli import main
from tests.ranks.processes import free_port

# a launch takes seconds, most of them for importing torch
PATIENCE = 120


def launched(ranks: int, *options: str, where: tuple[str, ...] = ("--standalone",)) -> Any:
    """`torchrun -m fastsaddle train` with these options, on processes of one thread."""
    program = [sys.executable, "-m", "torch.distributed.run", *where]
    program += [f"--nproc-per-node={ranks}", "-m", "fastsaddle", "train", *options]
    return subprocess.Popen(
        program,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str], status: int | None = 0) -> str:
    """What a launch printed."""
    try:
        said, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert status is None or process.returncode == status, said[-3000:]
    return said


def forked(ranks: int, *options: str, folder: Path, succeeds: bool = True) -> str:
    """What so many processes print that find what torchrun would tell them, all of one thread.

    Args:
        ranks: how many.
        options: of `fastsaddle train`.
        folder: where what they say is kept.
        succeeds: whether all exit with 0, or none.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tests.ranks.launches", "tests.ranks.work"])
    said, port = folder / f"said {time.monotonic_ns()}", free_port()
    processes = [
        context.Process(target=take_part, args=(rank, ranks, port, str(said), options), daemon=True)
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
        process.join()
    text = said.read_text()
    assert not hung, f"ranks {hung} have not ended: {text[-3000:]}"
    assert all((process.exitcode == 0) is succeeds for process in processes), text[-3000:]
    return text


def take_part(rank: int, ranks: int, port: int, said: str, options: tuple[str, ...]) -> None:
    """All that a process does."""
    stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(stream, standard)
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in told.items()}
    torch.set_num_threads(1)
    sys.exit(main(["train", *options]))
