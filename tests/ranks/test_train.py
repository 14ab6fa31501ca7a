"""`fastsaddle train` under torchrun: the run of one process, stopped on some ranks and gone on with on others."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fastsaddle.cli import main
from fastsaddle.sim.run import checkpoint
from tests.ranks.launches import PATIENCE, ended, forked, launched
from tests.ranks.processes import free_port

SECONDS = ("seconds", "step_seconds", "evaluation_seconds")


def lines(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in SECONDS} for row in rows]


def assert_equal(run: Path, whole: Path) -> None:
    """Equal metrics but for seconds, and equal checkpoints of the last step."""
    assert lines(run) == lines(whole)
    (step, path), (wanted, other) = checkpoint.find(run)[0], checkpoint.find(whole)[0]
    assert step == wanted
    tensors, _, counters = checkpoint.load(path)
    expected, _, counted = checkpoint.load(other)
    assert counters == counted and tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name


def options(*more: str) -> tuple[str, ...]:
    """Those of a small run, and more, which take the place of others."""
    small = {"--agents": "6", "--steps": "24", "--eval-every": "6", "--batch-size": "8"}
    return tuple(text for pair in {**small, **dict(batched(more))}.items() for text in pair)


def batched(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    return list(zip(texts[::2], texts[1::2], strict=True))


def in_one(run: Path, *more: str) -> Path:
    assert main(["train", *options(*more), "--threads", "1", "--out", str(run)]) == 0
    return run


@pytest.mark.parametrize(
    ("more", "counts"),
    [
        (
            ("--compressor", "stochastic-quantizer:8", "--faults", "links:0.2,agents:0.1"),
            "3,1,2",
        ),
        (("--algorithm", "dppf", "--init", "independent", "--augment", "crop"), "2,4"),
    ],
    ids=["qsaddle-8-bits-faults", "dppf"],
)
def test_a_run_on_ranks_is_the_run_of_one_process(
    more: tuple[str, ...], counts: str, tmp_path: Path
) -> None:
    whole = in_one(tmp_path / "one", *more)
    run = tmp_path / "ranks"
    ranks = counts.count(",") + 1
    said = forked(ranks, *options(*more), "--placement", counts, "--out", str(run), folder=tmp_path)
    assert_equal(run, whole)
    # one voice, and one set of files
    assert said.count("step 24/24") == 1 and said.count("after step 24") == 1
    assert f"{ranks} processes with {counts.replace(',', ', ')} agents" in said
    record = json.loads((run / "config.json").read_text())
    assert record["bits"] == "any placement" and "placement" not in record
    parts = sorted(path.name for path in checkpoint.find(run)[0][1].iterdir())
    assert len(parts) == ranks + 1 and parts[-1] == "manifest.json"
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    if "--faults" in more:
        # what happened over processes happens again in one
        log = f"log:{run / 'faults.jsonl'}"
        assert_equal(in_one(tmp_path / "again", *more, "--faults", log), run)


def test_stopped_on_three_ranks_and_gone_on_with_on_two_and_on_one(tmp_path: Path) -> None:
    more = ("--algorithm", "gradient-tracking", "--steps", "400", "--eval-every", "50")
    whole, run = in_one(tmp_path / "one", *more), tmp_path / "ranks"
    process = launched(3, *options(*more), "--out", str(run), "--overlap", "auto")
    assert process.stdout is not None
    said = ""
    while " 50/400  test loss" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    said += ended(process, None)
    told = re.findall(
        r"stopping after step (\d+), the next at which all processes look, with", said
    )
    between = said.count("stopping after the next step at which all processes look, with")
    assert len(told) + between == 1, said
    stopped = re.search(r"stopped at step (\d+); go on with:\ntorchrun --nproc-per-node 3", said)
    assert stopped is not None, said
    assert "(torchrun ends with a traceback of its own" in said
    assert checkpoint.find(run)[0][0] == int(stopped[1]) < 400
    # another process may have been told a moment earlier
    assert not told or int(stopped[1]) <= int(told[0])
    said = forked(2, "--resume", str(run), "--minutes", "0.001", folder=tmp_path)
    assert "going on at step" in said and "stopped at step" in said, said
    assert "traceback of its own" not in said
    assert main(["train", "--resume", str(run)]) == 0
    assert_equal(run, whole)
    assert "is finished" in forked(2, "--resume", str(run), folder=tmp_path)


def test_a_killed_rank_is_named_and_torchrun_goes_on_without_a_word_of_ours(tmp_path: Path) -> None:
    more = ("--steps", "300", "--eval-every", "50")
    whole, run = in_one(tmp_path / "one", *more), tmp_path / "ranks"
    where = ("--max-restarts=1", "--standalone")
    process = launched(3, *options(*more), "--out", str(run), where=where)
    wait_for_a_checkpoint(run)
    os.kill(children(process)[-1], signal.SIGKILL)
    said = ended(process)
    named = re.findall(r"^PeerError: .*agents 4 and 5 \(rank 2.*--resume \S+", said, re.MULTILINE)
    assert named and "started again: going on with" in said, said
    assert_equal(run, whole)


def children(process: subprocess.Popen[str]) -> list[int]:
    """Those of a launcher that have not ended."""
    told = ["ps", "-o", "pid=,stat=", "--ppid", str(process.pid)]
    lines = subprocess.run(told, capture_output=True, text=True).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if "Z" not in line.split()[1]]


def wait_for_a_checkpoint(run: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not checkpoint.find(run) and time.monotonic() < end:
        time.sleep(0.01)


def test_two_launches_are_one_run_which_stops_when_one_of_them_is_gone(tmp_path: Path) -> None:
    more = ("--steps", "600", "--eval-every", "50")
    whole, run = in_one(tmp_path / "one", *more), tmp_path / "ranks"
    where = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}")
    # as on two machines
    machines = [
        launched(1, *options(*more), "--out", str(run), where=(*where, "--local-addr=127.0.0.1"))
        for _ in range(2)
    ]
    wait_for_a_checkpoint(run)
    machines[0].kill()
    # what the processes of the one have written, which end by themselves
    said = ended(machines[0], None)
    end = time.monotonic() + PATIENCE
    while children(machines[1]) and time.monotonic() < end:
        time.sleep(0.05)
    # the other torchrun waits for the one that was killed, for minutes
    machines[1].kill()
    said += ended(machines[1], None)
    assert "2 processes with 3, 3 agents" in said and "torchrun has gone" in said, said
    way = (
        "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:29500 --nproc-per-node 1"
    )
    stopped = re.search(rf"stopped at step (\d+); go on with:\n{way} -m fastsaddle", said)
    assert stopped is not None, said
    assert checkpoint.find(run)[0][0] == int(stopped[1]) < 600
    assert main(["train", "--resume", str(run)]) == 0
    assert_equal(run, whole)


def test_one_rank_says_what_is_wrong(tmp_path: Path) -> None:
    cases = (
        (("--agents", "1"), "each of 2 ranks must hold at least one agent, got 1 agents"),
        (("--placement", "2,3"), "--placement: counts must add up to 6 agents, got [2, 3]"),
        (("--ccl-model", "0.1"), "--ccl-model and --ccl-data work in one process"),
    )
    run = tmp_path / "none"
    for more, part in cases:
        call = (*options(*more), "--out", str(run))
        said = forked(2, *call, folder=tmp_path, succeeds=False)
        assert said.count(f"fastsaddle: error: {part}") == 1, said[-3000:]
    assert not run.exists()


def test_a_rank_that_diverges_says_what_may_help(tmp_path: Path) -> None:
    more = ("--lr", "1e30", "--agents", "2")
    call = (*options(*more), "--out", str(tmp_path / "run"))
    said = forked(2, *call, folder=tmp_path, succeeds=False)
    assert "fastsaddle: error: training diverged at step 1, a smaller --lr may help" in said, said


def test_where_a_file_of_one_rank_is_damaged_all_go_on_from_the_checkpoint_before(
    tmp_path: Path,
) -> None:
    more = ("--checkpoint-every", "10")
    whole, run = in_one(tmp_path / "one", *more), tmp_path / "ranks"
    call = (*options(*more), "--out", str(run))
    forked(2, *call, folder=tmp_path)
    os.truncate(run / "checkpoint-24" / "agents-3-6.safetensors", 1000)
    said = forked(2, "--resume", str(run), folder=tmp_path)
    assert "going on at step 20" in said and said.count("trying the one before") == 1, said
    assert_equal(run, whole)
    # rank 0 alone has something to say
    said = forked(2, *call, folder=tmp_path, succeeds=False)
    assert said.count("error: --out") == 1 and "PeerError" not in said, said[-3000:]
    assert_equal(run, whole)


def test_a_process_that_is_not_there_is_missed_in_a_line(tmp_path: Path) -> None:
    told = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    command = [sys.executable, "-m", "fastsaddle", "train", *options("--timeout", "1")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")],
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("fastsaddle: error: not all 2 processes were there within 1 s")
    assert not (tmp_path / "run").exists()
