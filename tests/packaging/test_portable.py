"""Modules and calls that macOS or Windows lack are not needed: a run without them ends as any other."""

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
