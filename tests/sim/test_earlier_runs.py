"""Runs that an earlier version began go on: its checkpoints hold less of D2, and spell algorithms in another way."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

EARLIER = Path(__file__).parent / "earlier"
# of the checkpoint after the last step, as that version wrote it: torch's sums are as wide as registers are
BY_WIDTH: dict[str, dict[str, dict[str, str]]] = json.loads((EARLIER / "expected.json").read_text())
WIDTH = torch.backends.cpu.get_cpu_capability()
RUNS = tuple(BY_WIDTH["AVX512"])
GO_ON = """
import sys
from fastsaddle.cli import main

for run in sys.argv[1:]:
    assert main(["train", "--resume", run]) == 0
"""
# products of torch are MKL's, whose bits differ between processors but in this mode
PORTABLE = {"MKL_CBWR": "COMPATIBLE"}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them have gone on to their ends."""
    place = tmp_path_factory.mktemp("earlier")
    runs = [str(shutil.copytree(EARLIER / name, place / name)) for name in RUNS]
    program = [sys.executable, "-c", GO_ON, *runs]
    done = subprocess.run(program, env={**os.environ, **PORTABLE}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.skipif(WIDTH not in BY_WIDTH, reason=f"that version was not run with {WIDTH}")
@pytest.mark.parametrize("name", RUNS)
def test_an_earlier_run_ends_with_its_own_bits(name: str, ended: Path) -> None:
    held = load_file(ended / name / "checkpoint-6.safetensors")
    for tensor, digest in BY_WIDTH[WIDTH][name].items():
        found = hashlib.sha256(held[tensor].contiguous().numpy().tobytes()).hexdigest()[:16]
        assert found == digest, tensor
