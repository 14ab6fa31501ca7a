"""Launches of all Triton kernels on the interpreter, by the checker of tests/kernels/checker, each on fresh numbers.

An attempt is a process that checks two examples of each op at each size in four orders of programs, with footprints,
and that the controls are caught.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.campaigns.campaign import Campaign, Counts, Draw

ROOT = Path(__file__).parents[2]
# sets of launches of one process, about
BLOCK = 540
PATIENCE = 600.0


def attempt(draw: Draw, place: Path, prepared: Any) -> Counts:
    counts, seed = Counts(), draw.randrange(2**31)
    program = [sys.executable, "-W", "ignore", "-m", "tests.kernels.checker", "--json"]
    try:
        done = subprocess.run(
            [*program, "--seed", str(seed), "--variants", "2"],
            cwd=ROOT,
            env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        counts.tried = BLOCK
        counts.hangs.append(f"launches of seed {seed}")
        return counts
    try:
        found = json.loads(done.stdout)
    except ValueError:
        (place / "stderr").write_text(done.stderr)
        counts.tried = BLOCK
        counts.tracebacks.append(f"launches of seed {seed}: {(done.stderr or 'no word')[-300:]}")
        return counts
    counts.ended.update(found["launches"])
    counts.tried = counts.ended.total()
    counts.losses += [f"seed {seed}: {fault}" for fault in found["faults"]]
    return counts


campaign = Campaign("launches", 4 * BLOCK, attempt, lambda place: None)
