"""The campaigns, with a handful of attempts each, and what is kept of them."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.reporting.campaigns import campaigns
from tests.campaigns import kills, outcome, sanitizers, signals, trains
from tests.campaigns.__main__ import main
from tests.campaigns.campaign import Campaign, Counts, Draw
from tests.campaigns.forked import call
from tests.campaigns.shares import carry_out

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results" / "campaigns.json"


@pytest.mark.usefixtures("one_thread")
def test_a_few_attempts_find_nothing(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling for the sanitizers, and commands that are killed with their workers, take too long here."""
    # the command sets it, for its own process
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(kills, "MOST", 1)
    monkeypatch.setattr(kills, "COMPARES", 10**9)
    monkeypatch.setattr(signals, "BLOCK", 5)
    kept = tmp_path / "kept.json"
    names = ("kills", "signals", "options")
    options = ["--seed", str(seed), "--count", "1", "--jobs", "1", "--keep", str(kept)]
    assert main(["--only", *names, *options]) == 0
    rows = json.loads(kept.read_text())
    assert [(row["campaign"], row["seed"]) for row in rows] == [(name, seed) for name in names]


@pytest.mark.usefixtures("one_thread")
def test_a_disturbed_launch_ends_as_a_calm_process(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two launches of some seconds: one that is disturbed, and the one that goes on."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(trains, "MOST", 1)
    options = ["--seed", str(seed), "--count", "1", "--jobs", "1"]
    assert main(["--only", "trains", *options]) == 0


def test_native_calls_without_a_sanitizer(seed: int) -> None:
    if not (ROOT / "fastsaddle" / "_native.so").exists():
        pytest.skip("native library not built")
    program = [sys.executable, "-m", "tests.campaigns.native_calls", str(ROOT / "fastsaddle")]
    done = subprocess.run([*program, str(seed), "40"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sum(json.loads(done.stdout).values()) >= 40


def noted(draw: Draw, place: Path, prepared: list[int]) -> Counts:
    drawn = draw.randrange(1000)
    return Counts(2, Counter({str(drawn): 1}), losses=["odd"] if drawn % 2 else [])


def test_attempts_depend_on_the_seed_and_their_numbers_alone(tmp_path: Path, seed: int) -> None:
    campaign = Campaign("things", 20, noted, lambda place: None)
    together = carry_out(campaign, seed, 20, tmp_path / "a", jobs=1)
    apart = carry_out(campaign, seed, 20, tmp_path / "b", jobs=3)
    assert together.tried == 20 and together.ended == Counter(
        str(random.Random(f"{seed} {number}").randrange(1000)) for number in range(10)
    )
    # shares are whole attempts
    assert apart.tried >= 20 and together.ended <= apart.ended
    for text in together.losses:
        number = int(re.fullmatch(r"attempt (\d+): odd", text)[1])  # type: ignore[index]
        again = carry_out(campaign, seed, 1, tmp_path / f"c{number}", first=number)
        assert again.losses == [text] and (tmp_path / f"c{number}" / str(number)).is_dir()


def test_an_attempt_that_fails_is_no_finding(tmp_path: Path) -> None:
    def broken(draw: Draw, place: Path, prepared: None) -> Counts:
        raise ZeroDivisionError("of the campaign itself")

    campaign = Campaign("things", 2, broken, lambda place: None)
    with pytest.raises(RuntimeError, match="of the campaign itself"):
        carry_out(campaign, 0, 2, tmp_path / "a")


def test_children_end_as_processes_do(tmp_path: Path) -> None:
    def told() -> int:
        print("out")
        print("err", file=sys.stderr)
        return 3

    def raised() -> int:
        raise OSError("from the depth")

    def waits() -> int:
        while True:
            pass

    ended = call(told, tmp_path)
    assert (ended.status, ended.out, ended.err) == (3, "out\n", "err\n")
    assert not (ended.killed or ended.hung or ended.has_traceback)
    ended = call(raised, tmp_path)
    assert ended.status == 1 and ended.has_traceback and "from the depth" in ended.last
    assert call(lambda: sys.exit(2), tmp_path).status == 2
    killed = call(lambda: os.kill(os.getpid(), signal.SIGTERM), tmp_path)
    assert killed.has_traceback and not killed.killed
    assert call(waits, tmp_path, seconds=0.05).hung
    ended = call(waits, tmp_path, is_due=lambda: True)
    assert ended.killed and not ended.hung and not ended.has_traceback


def test_other_rows_are_kept(tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    copy.write_text(KEPT.read_text())
    found = Counts(7, Counter({"good": 5, "better": 2}), losses=["one"])
    outcome.keep(copy, outcome.row("some", "things", found, 4, 2.0))
    outcome.keep(copy, outcome.row("other", "things", Counts(1), 5, 2.0))
    before = campaigns(json.loads(copy.read_text()))
    outcome.keep(copy, outcome.row("some", "things", Counts(1234), 6, 2.0))
    renewed = campaigns(json.loads(copy.read_text()))
    assert campaigns(json.loads(KEPT.read_text())) in before
    assert (
        "| some | 7 things | 5 good, 2 better | 1 | 0 | 0 | 2 s | `--only some --seed 4`" in before
    )
    assert "--seed 4`" not in renewed and "| some | 1,234 things |" in renewed
    assert renewed.count("| other |") == 1
    copy.write_text("{}")
    with pytest.raises(ValueError, match="must hold a list of rows, got dict"):
        outcome.keep(copy, outcome.row("some", "things", found, 4, 2.0))


def test_a_fault_that_a_sanitizer_sees_is_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "dequantize_add, 8-bit\n=1=ERROR: x\nSUMMARY: AddressSanitizer: overflow\nmore\n"
    ended = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: ended)
    counts = sanitizers.attempt(random.Random(0), tmp_path, {"FOLDER": "none"})
    assert len(counts.losses) == 1 and "SUMMARY: AddressSanitizer: overflow" in counts.losses[0]
    assert (tmp_path / "stderr").read_text() == said
