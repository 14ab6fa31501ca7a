"""Runs the Triton cases of the room contract under Triton's interpreter, in a process of its own.

TRITON_INTERPRET is read when a kernel is defined, so it cannot be switched on for a part of one process.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_kernels_equal_the_reference_under_the_interpreter(seed: int) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--seed={seed}",
    ]
    run = subprocess.run(
        [*command, str(HERE / "test_rooms.py"), "-k", "test_equals_the_reference and triton"],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "passed" in run.stdout and "skipped" not in run.stdout, run.stdout[-400:]
