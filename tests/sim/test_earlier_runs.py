"""Runs that an earlier version began go on: its checkpoints hold less of D2, and spell algorithms in another way."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fastsaddle.cli import main

EARLIER = Path(__file__).parent / "earlier"
# of the checkpoint after the last step, as that version wrote it
EXPECTED: dict[str, dict[str, str]] = json.loads((EARLIER / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_an_earlier_run_ends_with_its_own_bits(name: str, tmp_path: Path) -> None:
    run = tmp_path / name
    shutil.copytree(EARLIER / name, run)
    assert main(["train", "--resume", str(run)]) == 0
    held = load_file(run / "checkpoint-6.safetensors")
    for tensor, digest in EXPECTED[name].items():
        found = hashlib.sha256(held[tensor].contiguous().numpy().tobytes()).hexdigest()[:16]
        assert found == digest, tensor
