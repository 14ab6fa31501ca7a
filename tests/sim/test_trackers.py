"""Trackers: TensorBoard and wandb as they are, those of packages, the user's own; none of them can lose a run."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim.comparison.grid import Cell
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.trackers import _choice

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = ("--agents", "3", "--steps", "6", "--eval-every", "2")
OWN = """
import fastsaddle as fs


class Told(fs.sim.Tracker):
    fails_at = None

    def __init__(self, word="told"):
        self.word = word

    def begin(self, run):
        self.file = run.directory / f"{self.word}.txt"
        self.say(f"begin {run.step} {run.options['agents']}")

    def show_step(self, step, loss, seconds):
        self.say(f"step {step}")

    def show_evaluation(self, row):
        if row["step"] == self.fails_at:
            raise OSError("no space")
        row.clear()

    def end(self, state):
        self.say(f"end {state}")

    def say(self, line):
        with self.file.open("a") as stream:
            print(line, file=stream)


class Failing(Told):
    fails_at = 4


class Never(fs.sim.Tracker):
    def begin(self, run):
        raise RuntimeError("no key")


class Missing(fs.sim.Tracker):
    def __init__(self):
        raise ImportError("needs the package nowhere: pip install nowhere")


class Bare:
    pass
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def told(run: Path, name: str = "told") -> list[str]:
    return (run / f"{name}.txt").read_text().splitlines()


# -- wandb


def wandb_records(file: Path) -> Iterator[Any]:
    """What a file of wandb's holds: LevelDB's log format, behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, held = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        length, kind = struct.unpack_from("<HB", data, at + 4)
        if left < 7 or kind == 0:
            at += left
            continue
        held += data[at + 7 : at + 7 + length]
        at += 7 + length
        # whole, or the last part
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(held)
            held = b""
            yield record


def wandb_sessions(run: Path) -> list[dict[str, Any]]:
    """Each session's run, lines and exit status, in their order."""
    sessions = []
    for folder in sorted((run / "wandb").glob("offline-run-*")):
        session: dict[str, Any] = {"rows": []}
        for record in wandb_records(next(folder.glob("*.wandb"))):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                session |= {"id": record.run.run_id, "project": record.run.project}
                session["config"] = {
                    item.key: json.loads(item.value_json) for item in record.run.config.update
                }
            elif kind == "history":
                items = record.history.item
                session["rows"].append(
                    {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                )
            elif kind == "exit":
                session["exit"] = record.exit.exit_code
        sessions.append(session)
    return sessions


def test_wandb_has_the_metrics_and_options_offline_and_one_id(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    # nobody is there: an attempt to send would fail
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    run = here / "run"
    assert main(["train", *OPTIONS, "--track", "wandb:mine", "--out", str(run)]) == 0
    (session,) = wandb_sessions(run)
    assert session["project"] == "mine" and session["exit"] == 0
    assert session["id"] == (run / "wandb" / "id").read_text().strip()
    assert session["config"]["algorithm"] == "qsaddle" and session["config"]["agents"] == 3
    rows = rows_of(run)
    assert [row["_step"] for row in session["rows"]] == [row["step"] for row in rows]
    for seen, row in zip(session["rows"], rows, strict=True):
        for name in row.keys() - {"step"}:
            assert seen.get(name) == row[name], name
    assert main(["train", "--resume", str(run), "--steps", "10"]) == 0
    first, second = wandb_sessions(run)
    assert second["id"] == first["id"]
    assert [row["_step"] for row in second["rows"]] == [row["step"] for row in rows_of(run)][-2:]


@pytest.mark.skipif(os.name == "nt", reason="there are no process groups that Ctrl-C goes to")
def test_ctrl_c_in_a_terminal_closes_wandb_too(here: Path) -> None:
    pytest.importorskip("wandb")
    run = here / "run"
    words = ("train", "--agents", "3", "--steps", "1000000", "--eval-every", "50")
    process = subprocess.Popen(
        [sys.executable, "-m", "fastsaddle", *words, "--track", "wandb", "--out", str(run)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        begin = time.monotonic()
        while not (run / "metrics.jsonl").exists() or len(rows_of(run)) < 2:
            assert time.monotonic() - begin < 120 and process.poll() is None
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130 and "go on with" in out
    (session,) = wandb_sessions(run)
    assert session["exit"] == 0 and len(session["rows"]) == len(rows_of(run))


# -- TensorBoard


def test_both_spellings_of_tensorboard_are_one(here: Path) -> None:
    pytest.importorskip("tensorboard")
    run = here / "run"
    words = (*OPTIONS, "--track", "TensorBoard", "--tensorboard")
    assert main(["train", *words, "--out", str(run)]) == 0
    assert len([*(run / "tensorboard").iterdir()]) == 1
    # as earlier versions stored it
    config = json.loads((run / "config.json").read_text())
    del config["track"]
    (run / "config.json").write_text(json.dumps(config))
    assert main(["train", "--resume", str(run), "--steps", "8"]) == 0
    assert len([*(run / "tensorboard").iterdir()]) == 2


# -- one's own


def test_ones_own_is_told_all_and_gone_on_with_from_anywhere(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = here / "run"
    words = ("--track", "own.py:Told,own.py:Told:twice", "--minutes", "1e-6")
    assert main(["train", *OPTIONS, *words, "--out", str(run)]) == 75
    assert told(run)[0] == "begin 0 3" and told(run)[-1] == "end stopped"
    assert told(run) == told(run, "twice")
    done = len(told(run)) - 2
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert main(["train", "--resume", str(run)]) == 0
    steps = [f"step {n}" for n in range(done + 1, 7)]
    assert told(run)[done + 2 :] == [f"begin {done} 3", *steps, "end finished"]
    # what they do to their line is theirs
    assert [row["step"] for row in rows_of(run)] == [0, 2, 4, 6]


def test_one_that_fails_is_told_and_left_out(here: Path) -> None:
    run = here / "run"
    track = "own.py:Failing:failing,own.py:Never,own.py:Told"
    with pytest.warns(RuntimeWarning) as warned:
        assert main(["train", *OPTIONS, "--track", track, "--out", str(run)]) == 0
    text = "\n".join(str(w.message) for w in warned)
    assert "tracker Never failed at step 0, the run goes on without it: RuntimeError: no" in text
    assert "tracker Failing failed at step 4, the run goes on without it: OSError: no space" in text
    assert told(run, "failing")[-2:] == ["step 4", "end failed"]
    assert told(run)[-1] == "end finished" and rows_of(run)[-1]["step"] == 6


def test_a_run_that_fails_closes_them_as_failed(here: Path) -> None:
    words = (*OPTIONS, "--track", "own.py:Told", "--lr", "1e30")
    assert main(["train", *words, "--out", "run"]) == 1
    assert told(here / "run")[-1] == "end failed"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("own.py:Missing", "needs the package nowhere: pip install nowhere"),
        ("own.py:Bare", "must be a subclass of fs.sim.Tracker"),
        ("wandv", "did you mean wandb?"),
        ("wandb,wandb", "--track: wandb is given twice"),
        ("wandb,", "--track must be names with commas between them, or none"),
        ("own.py:Nobody", "has no callable 'Nobody'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    text: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *OPTIONS, "--track", text, "--out", "run"]) == 2
    assert reason in capsys.readouterr().err
    assert not (here / "run").exists()


def test_a_missing_wandb_says_what_to_install(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["train", *OPTIONS, "--track", "wandb", "--out", "run"]) == 2
    assert "--track wandb needs the package wandb: pip install wandb" in capsys.readouterr().err
    assert not (here / "run").exists()


def test_packages_offer_them_by_entry_points(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = here / "site"
    (site / "shop-1.0.dist-info").mkdir(parents=True)
    (site / "shop_tracker.py").write_text(OWN)
    (site / "shop-1.0.dist-info" / "METADATA").write_text("Name: shop\nVersion: 1.0\n")
    points = "[fastsaddle.trackers]\nshop = shop_tracker:Told\n"
    (site / "shop-1.0.dist-info" / "entry_points.txt").write_text(points)
    with pytest.raises(ValueError, match="--track must be one of none, tensorboard, wandb, or"):
        _choice.find("shop")
    monkeypatch.syspath_prepend(site)
    assert main(["train", *OPTIONS, "--track", "shop:sold", "--out", "run"]) == 0
    assert told(here / "run", "sold")[-1] == "end finished"
    with pytest.raises(ValueError, match="one of none, tensorboard, wandb, shop, or"):
        _choice.find("nobody")


def test_from_python_one_is_an_observer(here: Path) -> None:
    class Mine(fs.sim.Tracker):
        def __init__(self) -> None:
            self.said: list[Any] = []

        def begin(self, run: fs.sim.Tracked) -> None:
            self.said.append((run.directory.name, run.step))

        def show_evaluation(self, row: dict[str, Any]) -> None:
            self.said.append(row["step"])

        def end(self, state: str) -> None:
            self.said.append(state)

    mine, options = Mine(), {"agents": 3, "steps": 4, "eval_every": 2, "quiet": True}
    fs.sim.train(**options, out="run", observers=[mine], track="own.py:Told")  # type: ignore[arg-type]
    assert mine.said == [("run", 0), 0, 2, 4, "finished"]
    assert told(here / "run")[-1] == "end finished"


def test_a_comparisons_runs_are_the_same_with_and_without(here: Path) -> None:
    names = {Cell(TrainConfig(track=track)).name for track in ("none", "wandb", "own.py:Told")}
    assert len(names) == 1
    words = ("--algorithm", "dsgd", "qgm", "--agents", "3", "--steps", "4", "--seed", "0")
    assert main(["compare", *words, "--track", "own.py:Told", "--out", "all"]) == 0
    runs = [file.parent for file in (here / "all").rglob("told.txt")]
    assert len(runs) == 2
    for run in runs:
        assert told(run)[-1] == "end finished"
