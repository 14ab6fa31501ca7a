"""What commands import before they do anything: `--help` and a run's first step wait for nothing they do not use.

Modules are named here, as seconds depend on the machine; one bound is wide.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# packages, and parts of torch, whose import takes a tenth of a second or more
SLOW = (
    *("matplotlib", "networkx", "pandas", "scipy", "sklearn", "sympy", "torchvision", "triton"),
    *("torch._dynamo", "torch._inductor"),
)
# seconds of processor time that a start may take beyond importing torch: twice what it should, on a busy machine
LONGEST = 3.0
# prints, for each command and before the first step, which of SLOW it imported, and the seconds since torch was there
CODE = """
import contextlib, io, json, sys, time
import torch
torch.set_num_threads(1)
slow = set(json.loads(sys.argv[1])) - {*sys.modules}
begin = time.process_time()
from fastsaddle.cli import main
def tell(what):
    seen = sorted(slow & {*sys.modules})
    print(json.dumps([what, seen, time.process_time() - begin]), file=sys.stderr, flush=True)
for command in ([], ["train"], ["compare"], ["report"]):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main([*command, "--help"])
    tell(" ".join([*command, "--help"]))
from fastsaddle.sim.run.simulation import Simulation
def step(self, number):
    tell("first step")
    raise KeyboardInterrupt
Simulation.step = step
main(["train", "--threads", "1", "--out", sys.argv[2]])
"""


def test_help_and_the_first_step_wait_for_nothing_slow(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CODE, json.dumps(SLOW), str(tmp_path / "run")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]
    imported = {what: seen for what, seen, _ in told}
    helps = ("--help", "train --help", "compare --help", "report --help")
    # the ring of the run is a graph
    assert imported == {**{name: [] for name in helps}, "first step": ["networkx"]}, done.stderr
    *_, (_, _, seconds) = told
    assert seconds < LONGEST
