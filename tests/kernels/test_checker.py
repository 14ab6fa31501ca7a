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
    # each kernel was seen at its memory, in each order
    files = (ROOT / "kernels").rglob("*.py")
    assert set(found["accesses"]) == {n for f in files for n in KERNEL.findall(f.read_text())}
    assert set(found["launches"]) == {"footprints", "reversed", "shuffled", "woven"}
    assert {"footprints"} <= set(found["caught"]["slices without a barrier"])
    assert {"woven", "footprints"} <= set(found["caught"]["mixing in place"])
    assert {"reversed", "footprints"} <= set(found["caught"]["the last program by number"])
    assert {"a second launch"} <= set(found["caught"]["tickets that are not reset"])
