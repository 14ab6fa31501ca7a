"""Modules and calls that macOS or Windows lack are not needed: a run without them ends as any other."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import os, sys
# which ask the system themselves
import random, torch
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("register_at_fork", "sched_getaffinity", "O_NOFOLLOW"):
    if hasattr(os, name):
        delattr(os, name)
from fastsaddle.cli import main
options = ("--agents", "4", "--steps", "4", "--eval-every", "2")
status = main(["train", *options, "--out", "run"]) or main(["train", "--resume", "run", "--steps", "6"])
sys.exit(status or main(["info"]))
"""


def test_a_run_needs_no_posix(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", CODE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoint-6.safetensors").exists()


def test_files_are_utf8_whatever_the_systems_encoding(tmp_path: Path) -> None:
    code = (
        "import locale; from pathlib import Path\n"
        "from fastsaddle.sim.run.whole_files import write_synced\n"
        "assert locale.getpreferredencoding(False) != 'UTF-8'\n"
        "write_synced(Path('page.html'), '0.5 \\u00b1 0.1\\n')\n"
    )
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **ascii_alone}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").read_bytes() == "0.5 \u00b1 0.1\n".encode()
