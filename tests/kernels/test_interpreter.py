"""Runs the Triton cases of the ops' contract, also on rows far apart, and those of stacked convolutions, under the
interpreter, in processes of their own.

TRITON_INTERPRET is read when a kernel is defined, so it cannot be switched on for a part of one process.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent


def reason_to_skip() -> str | None:
    """Why this environment cannot interpret kernels."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    import triton

    versions = [tuple(map(int, v.split(".")[:2])) for v in (triton.__version__, np.__version__)]
    if versions[0] < (3, 9) and versions[1] >= (2, 4):
        return f"Triton {triton.__version__} interprets with NumPy below 2.4 only, got {np.__version__}"
    return None


@pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
@pytest.mark.parametrize(
    "files",
    [
        (
            *("test_ops.py", "test_far_rows.py", "test_halo.py", "test_active.py", "test_draws.py"),
            *("test_gather_batch.py", "test_tickets.py", "test_squares.py", "test_distance.py"),
            *("test_shapes.py", "test_choco_parts.py"),
        ),
        ("test_stacked_convolution.py",),
    ],
    ids=["ops", "convolutions"],
)
def test_triton_kernels_equal_the_reference_under_the_interpreter(
    files: tuple[str, ...], seed: int
) -> None:
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
        [*command, *(str(HERE / name) for name in files), "-k", "triton"],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "passed" in run.stdout and "skipped" not in run.stdout, run.stdout[-400:]
