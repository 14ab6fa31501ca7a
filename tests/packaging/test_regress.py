"""The comparison of a commit with the working tree: its marks, what only one has, and that it leaves nothing behind."""

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
LIBRARY = "fastsaddle/_native.so"


@pytest.fixture
def regress(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("regress")


class FakeProcess:
    """Answers at once: case -> seconds of its turns, in order, or why it fails."""

    failure = ""

    def __init__(self, cases: dict[str, list[float] | str]) -> None:
        self.ready = {"cases": [*cases]}
        self._turns = {n: v if isinstance(v, str) else iter(v) for n, v in cases.items()}
        self._case = ""

    def ask(self, line: str) -> dict[str, Any]:
        asked = json.loads(line)
        self._case = asked.get("build", self._case)
        turns = self._turns[self._case]
        if isinstance(turns, str):
            return {"failure": turns}
        return {"calls": 3} if "build" in asked else {"seconds": next(turns)}


@pytest.fixture
def table(regress: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str]]]:
    def table_(base: dict[str, Any], now: dict[str, Any], **more: Any) -> tuple[int, list[str]]:
        default = {"only": None, "quick": False, "rounds": 4, "bound": 1.05}
        options = argparse.Namespace(**{**default, **more})
        # seconds of second measurements follow those of the first
        pair = FakeProcess(base), FakeProcess(now)
        status = regress.table(pair, lambda: pair, options)
        return status, capsys.readouterr().out.splitlines()

    return table_


def test_marks_count_where_all_rounds_agree(table: Callable[..., tuple[int, list[str]]]) -> None:
    base = {name: [1.0] * 8 for name in ("same", "slow", "fast", "noisy", "once")}
    base["half"] = [1.0] * 4 + [1.2] * 4
    now = {
        **{"same": [1.04] * 8, "slow": [1.2] * 8, "fast": [0.8] * 8},
        # the fastest round is as before; slow at first, and not again
        **{"noisy": [1.0, 1.2, 1.3, 1.4] * 2, "once": [1.2] * 4 + [0.9] * 4},
        # slow at first: by all rounds together too, by the second half alone not
        "half": [1.2] * 4 + [1.23] * 4,
    }
    status, lines = table(base, now)
    assert status == 1
    assert lines[-1] == "1 slower, 1 faster, 4 as before"
    marks = [line.split()[-1] for line in lines[:6]]
    assert marks[1:3] == ["slower", "faster"] and not {"slower", "faster"} & {
        *marks[:1],
        *marks[3:],
    }
    # milliseconds of the fastest rounds, the median ratio, its quartiles
    assert lines[1].split() == ["slow", "1000", "1200", "1.200", "1.200", "to", "1.200", "slower"]
    assert table(base, now, only="fast")[0] == 0
    assert table(base, now, only="fast", bound=1.5)[1][-1] == "0 slower, 0 faster, 1 as before"


def test_second_measurements_are_of_new_processes(
    regress: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {"same": [1.0] * 4, "slow": [1.0] * 4, "unlucky": [1.0] * 4}
    first = FakeProcess(cases), FakeProcess(cases | {n: [1.2] * 4 for n in ("slow", "unlucky")})
    second = FakeProcess(cases), FakeProcess(cases | {"slow": [1.1] * 4})
    options = argparse.Namespace(only=None, quick=False, rounds=4, bound=1.05)
    assert regress.table(first, lambda: second, options) == 1
    same, slow, unlucky, *_, count = capsys.readouterr().out.splitlines()
    assert slow.endswith("slower") and count == "1 slower, 0 faster, 2 as before"
    # the ratios are of the rounds of both
    assert [line.split()[3] for line in (same, slow, unlucky)] == ["1.000", "1.150", "1.100"]


def test_what_one_side_lacks_is_told(table: Callable[..., tuple[int, list[str]]]) -> None:
    base = {"old": [1.0], "both": [1.0] * 4, "broken": "TypeError: no such argument"}
    now = {"both": [1.0] * 4, "broken": [1.0] * 4, "young": [1.0]}
    status, lines = table(base, now)
    told = [line.split(maxsplit=1) for line in lines]
    assert status == 0
    assert told[1] == ["broken", "fails in BASE: TypeError: no such argument"]
    assert told[2:4] == [["young", "new"], ["old", "gone"]]
    assert table(base, now, only="young") == (2, [lines[2], "", "nothing was compared"])


def test_patterns_and_quick(regress: Any) -> None:
    names = ["QGM.step, 16 x 4,000", "QGM.step, 16 x 100,000", "sign, native, 16 x 4,000"]
    assert regress.chosen(names, None, False) == names
    assert regress.chosen(names, "qgm", True) == names[:1]
    assert regress.chosen(names, "s*native", False) == names[2:]
    regress.check_chosen(names, "qgm", True)
    few = "; ".join(names)
    with pytest.raises(ValueError, match=f"^no case matches 'gossib'; some are: {few}$"):
        regress.check_chosen(names, "gossib", False)
    few = f"{names[0]}; {names[2]}"
    with pytest.raises(
        ValueError, match=f"^no case of --quick matches '100,000'; some are: {few}$"
    ):
        regress.check_chosen(names, "100,000", True)


def test_git_is_needed(regress: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        OSError, match=r"^git is needed to check a commit out, and is not installed$"
    ):
        regress.run(argparse.Namespace(base="HEAD"), tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A repository of its own with the working tree as its only commit."""
    if not (ROOT / LIBRARY).exists() or shutil.which("git") is None:
        pytest.skip("needs git and the compiled library")
    folder = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "results", "reproduction")
    for name in ("benchmarks", "fastsaddle", "kernels"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    name = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    for words in (["init", "-q"], ["add", "-A"], [*name, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    yield folder


def test_a_run_that_is_interrupted_leaves_nothing(checkout: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [
            *(sys.executable, "-u", checkout / "benchmarks" / "regress.py", "HEAD"),
            *("--only", "agent_norm", "--rounds", "20", "--bound", "99"),
        ],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    head = [process.stdout.readline() for _ in range(4)]
    assert "threads 1, processor time" in head[0] and head[1].startswith("BASE "), (
        process.communicate()
    )
    # two more rows are to come
    case, *numbers = process.stdout.readline().rsplit(maxsplit=6)
    assert case == "agent_norm, native, 16 x 4,000" and numbers[4] == "to"
    assert all(float(number) > 0 for number in (*numbers[:4], numbers[5]))
    children = list(temporary.glob("*/base"))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.splitlines() == ["interrupted"]
    assert len(children) == 1 and not list(temporary.iterdir())
    worktrees = subprocess.run(
        ["git", "worktree", "list"], cwd=checkout, capture_output=True, text=True, check=True
    )
    assert len(worktrees.stdout.splitlines()) == 1


def test_no_commit(checkout: Path, tmp_path: Path) -> None:
    command = [sys.executable, checkout / "benchmarks" / "regress.py", "no-such-commit"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "regress: error: no-such-commit is no commit of this repository\n"
