"""A checkpoint that one process cannot read: all of them go on from the one before."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fastsaddle.ranks.thread_transport import run_in_threads
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run import job as jobs
from fastsaddle.sim.run.trainer import run
from fastsaddle.sim.run.world import World

pytestmark = pytest.mark.usefixtures("one_thread")
AGENTS, EVERY, STEPS = 4, 2, 4


def in_threads(work: Any) -> list[Any]:
    found = run_in_threads(2, lambda transport: work(World(transport, AGENTS)), timeout=60)
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return found


def gone_on(path: Path) -> list[Any]:
    """The step and notes of each process that goes on, which it then does to the end."""

    def work(world: World) -> Any:
        with closing(jobs.opened(path, world)) as directory:
            job = jobs.go_on(directory, world=world)
            told = job.step, job.notes
            run(job, [], lambda: False)
            return told

    return in_threads(work)


def test_all_go_on_from_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "run"
    config = TrainConfig(
        agents=AGENTS,
        steps=STEPS,
        eval_every=EVERY,
        checkpoint_every=EVERY,
        batch_size=8,
        threads=1,
        out=path,
    )

    def work(world: World) -> None:
        job = jobs.start(config, world)
        with closing(job.directory):
            run(job, [], lambda: False)

    in_threads(work)
    whole = (path / "metrics.jsonl").read_text()
    # of the second process; the first one finds nothing wrong
    last = path / f"checkpoint-{STEPS}" / "agents-2-4.safetensors"
    content = last.read_bytes()
    last.write_bytes(content[:100])
    for step, notes in gone_on(path):
        assert step == STEPS - EVERY
        assert len(notes) == 1 and "trying the one before" in notes[0] and last.name in notes[0]
    assert last.read_bytes() == content
    assert len((path / "metrics.jsonl").read_text().splitlines()) == len(whole.splitlines())
    for folder in path.glob("checkpoint-*"):
        (folder / last.name).write_bytes(b"")
    with pytest.raises(ValueError, match="is whole: delete them to start from step 0"):
        gone_on(path)
