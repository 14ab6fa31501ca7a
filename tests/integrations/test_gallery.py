"""The gallery's scripts run by themselves, as whoever downloads one runs it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.docs
SCRIPTS = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_runs_by_itself(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert done.stdout and "Warning" not in said, said
    assert str(tmp_path) not in said and str(script.parents[1]) not in said
    assert not list(tmp_path.iterdir())


def test_there_are_eight_and_none_hides_a_package() -> None:
    assert len(SCRIPTS) == 8
    # a script's own folder is searched first
    found = {path.stem: importlib.util.find_spec(path.stem) for path in SCRIPTS}
    assert not any(found.values()), found
