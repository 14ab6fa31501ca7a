"""The checker over all Triton kernels, in a process of its own: races, orders of programs, and wrong kernels."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.test_interpreter import reason_to_skip

ROOT = Path(__file__).parents[2]
KERNEL = re.compile(r"^@triton\.jit(?:\(.*\))?\ndef (\w+_kernel)\(", re.MULTILINE)


@pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
def test_programs_of_a_launch_do_not_disturb_each_other(seed: int) -> None:
    program = [sys.executable, "-W", "ignore", "-m", "tests.kernels.checker", "--json"]
    done = subprocess.run(
        [*program, "--seed", str(seed % 2**31), "--variants", "2"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert not found["faults"], "\n".join(found["faults"])
    assert done.returncode == 0
    # each kernel was seen at its memory, in each order, with programs that could disturb each other
    files = (ROOT / "kernels").rglob("*.py")
    assert set(found["accesses"]) == {n for f in files for n in KERNEL.findall(f.read_text())}
    assert all(found["accesses"].values())
    assert not [name for name, programs in found["programs"].items() if programs < 2]
    assert set(found["launches"]) == {"ascending", "reversed", "shuffled", "woven"}
    assert {"footprints"} <= set(found["caught"]["slices without a barrier"])
    assert {"reversed", "footprints"} <= set(found["caught"]["mixing in place"])
    assert {"reversed", "footprints"} <= set(found["caught"]["the last program by number"])
    assert {"reversed"} <= set(found["caught"]["tickets that are not reset"])
    assert {"footprints"} <= set(found["caught"]["tickets that order nothing"])
    assert {"woven"} <= set(found["caught"]["counting without an atomic"])
    assert {"footprints"} <= set(found["caught"]["a scalar zeroed while threads load it"])


@pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("del InterpreterBuilder.create_barrier", "has no create_barrier"),
        (
            "TritonSemantic.debug_barrier = lambda self: None",
            "does not go through the checker's hooks",
        ),
    ],
    ids=["missing", "unused"],
)
def test_an_interpreter_with_other_hooks_is_refused(changed: str, told: str) -> None:
    lines = (
        "from triton.language.semantic import TritonSemantic",
        "from triton.runtime.interpreter import InterpreterBuilder",
        changed,
        "from tests.kernels.checker.hooks import assert_hooks_hold",
        "assert_hooks_hold()",
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(lines)],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "NotImplementedError" in done.stderr and told in done.stderr, done.stderr[-3000:]
