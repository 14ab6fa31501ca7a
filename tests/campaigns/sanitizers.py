"""The native library, compiled with the sanitizers for addresses and undefined behavior, under random calls.

An attempt is a process that makes some hundreds of calls (native_calls.py) and ends at the first fault.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.campaigns.campaign import Campaign, Counts, Draw

ROOT = Path(__file__).parents[2]
# calls of one process
BLOCK = 500
PATIENCE = 300.0
WATCHED = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
# opened before all else; exceptions are caught on their way to the C++ library, which torch brings late
PRELOADED = ("libasan.so", "libstdc++.so.6")
# Python and torch keep what they have until the end
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


def prepare(place: Path) -> dict[str, str]:
    """Compile the library as setup.py does, but watched; the environment that it runs in.

    Raises RuntimeError, with what the compiler said, where that fails.
    """
    folders = ["--build-lib", str(place), "--build-temp", str(place / "temp")]
    command = [sys.executable, "setup.py", "--quiet", "build_ext", *folders]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "CXXFLAGS": f"{os.environ.get('CXXFLAGS', '')} {WATCHED}"},
        capture_output=True,
        text=True,
    )
    folder = place / "fastsaddle"
    if not (folder / "_native.so").exists():
        raise RuntimeError(f"no library to watch:\n{done.stdout}{done.stderr}")
    found = [
        subprocess.check_output(["c++", f"-print-file-name={name}"], text=True).strip()
        for name in PRELOADED
    ]
    return {"LD_PRELOAD": " ".join(found), **OPTIONS, "FOLDER": str(folder)}


def attempt(draw: Draw, place: Path, prepared: dict[str, Any]) -> Counts:
    counts, seed = Counts(), draw.randrange(2**62)
    program = [sys.executable, "-m", "tests.campaigns.native_calls", prepared["FOLDER"]]
    try:
        done = subprocess.run(
            [*program, str(seed), str(BLOCK)],
            cwd=ROOT,
            env={**os.environ, **prepared},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        counts.tried = BLOCK
        counts.hangs.append(f"calls of seed {seed}")
        return counts
    if done.returncode == 0:
        counts.ended.update(json.loads(done.stdout))
        counts.tried = counts.ended.total()
        return counts
    (place / "stderr").write_text(done.stderr)
    counts.tried, said = BLOCK, done.stderr.splitlines()
    faults = [line for line in said if "SUMMARY" in line or "runtime error" in line]
    counts.losses.append(f"calls of seed {seed}: {(faults or said or ['no word'])[-1]}")
    return counts


campaign = Campaign("calls", 10_000, attempt, prepare)
