"""How many launches a step takes beside its closures, and that none makes the host wait: counted without a GPU.

tests/kernels/launch_counts.py counts, in a process of its own where Triton interprets.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.test_interpreter import reason_to_skip

HERE = Path(__file__).parent

NORM, PERTURB, COUNT = {"agent_norm_kernel": 1}, {"sam_perturb_kernel": 1}, {"add_": 1}
GOSSIP = {"gossip_step_kernel": 1}
FUSED = {"choco_step_pieces_kernel": 1, "squares_finish_kernel": 1}
PLAIN = {**NORM, **COUNT}
SAM = {"agent_norm_kernel": 2, **PERTURB, **COUNT}
# 16 agents on a ring and one group of parameters, unless the name says otherwise; others than methods are QSADDLe
LAUNCHES: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "DSGD": (3, {**PLAIN, **GOSSIP}),
    "DSGDm": (3, {**PLAIN, **GOSSIP}),
    "QGM": (3, {**PLAIN, **GOSSIP}),
    "DSADDLe": (5, {**SAM, **GOSSIP}),
    "QSADDLe": (5, {**SAM, **GOSSIP}),
    # 8 passes over all models instead of 11: squares come with the gradients, perturbed models lie aside
    "QSADDLe, engine": (5, {"norm_of_squares_kernel": 2, **PERTURB, **COUNT, **GOSSIP}),
    "DSGD, 8 bits": (4, {**PLAIN, **FUSED}),
    "DSGDm, 8 bits": (4, {**PLAIN, **FUSED}),
    "QGM, 8 bits": (4, {**PLAIN, **FUSED}),
    "DSADDLe, 8 bits": (6, {**SAM, **FUSED}),
    "QSADDLe, 8 bits": (6, {**SAM, **FUSED}),
    "one model": (5, {**SAM, **GOSSIP}),
    "64 agents": (5, {**SAM, **GOSSIP}),
    "65 agents": (5, {**SAM, "gossip_step_slices_kernel": 1}),
    "fully connected, 65 agents": (
        7,
        {**SAM, "local_step_kernel": 1, "mix_dense_kernel": 1, "mix_update_kernel": 1},
    ),
    # one launch more than a program for all agents of a bucket would be, which the model finds slower
    "17 agents, 8 bits": (
        7,
        {**SAM, "publish_kernel": 1, "mix_kernel": 1, "squares_finish_kernel": 1},
    ),
    "49 agents, 8 bits": (
        7,
        {**SAM, "publish_kernel": 1, "mix_kernel": 1, "squares_finish_kernel": 1},
    ),
    "2 groups": (7, {**SAM, "sam_perturb_kernel": 2, "gossip_step_kernel": 2}),
    "2 groups, 8 bits": (
        9,
        {**SAM, "sam_perturb_kernel": 2, "choco_step_pieces_kernel": 2, "squares_finish_kernel": 2},
    ),
    # the momentum's norm counts skipped steps of its own
    "MomentumSAM": (6, {**SAM, **GOSSIP, "new_zeros": 1}),
}


@pytest.fixture(scope="module")
def counts() -> Mapping[str, Mapping[str, Any]]:
    reason = reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "launch_counts.py")],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("case", LAUNCHES)
def test_a_step_launches_what_the_table_says_and_never_waits(
    case: str, counts: Mapping[str, Mapping[str, Any]]
) -> None:
    total, launches = LAUNCHES[case]
    assert counts[case] == {"launches": launches, "waits": {}}
    assert sum(launches.values()) == total


def test_the_counter_sees_what_makes_the_host_wait(
    counts: Mapping[str, Mapping[str, Any]],
) -> None:
    raising = counts["raising"]
    assert raising["waits"]
    assert sum(raising["launches"].values()) > LAUNCHES["QSADDLe"][0]
