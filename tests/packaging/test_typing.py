"""What users write is checked by mypy as they run it: right code has no error, wrong calls are told."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
ROOT = Path(__file__).parents[2]

RIGHT = """
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs

model = nn.Linear(8, 3)
optimizer = fs.QSADDLe(model.parameters(), lr=0.1, rho=0.05)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
x, y = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])


def closure() -> torch.Tensor:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss


def number() -> float:
    return closure().item()


def any_optimizer(given: torch.optim.Optimizer) -> float:
    return given.step(number)


loss: torch.Tensor = optimizer.step(closure)
value: float = optimizer.step(number) + any_optimizer(optimizer)
closure()
optimizer.step(closure, closure_passes=1)
closure()
optimizer.perturb(zero_grad=True)
closure()
optimizer.second_step(zero_grad=True)
scheduler.step()

scaler = torch.amp.GradScaler("cpu")
scaler.scale(closure()).backward()
scaler.unscale_(optimizer)
optimizer.first_step()
scaler.step(optimizer)
scaler.update()


class HeavyBall(fs.rules.Rule):
    hyperparameters = {"momentum": fs.rules.Range(0, 1, default=0.9)}
    states = (fs.rules.State("momentum_buffer"),)

    def step(self, rows: fs.rules.Rows, comm: fs.comm.Round) -> None:
        m = rows.states["momentum_buffer"].mul_(rows["momentum"]).add_(rows.g)
        rows.x.copy_(comm.mixed(rows.x - rows.lr * m))


class Own(fs.Optimizer):
    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(
            params,
            lr,
            gradient=fs.gradients.Cross("data", fs.gradients.SAM(rho=0.05)),
            rule=HeavyBall(momentum=0.5),
            communicator=fs.comm.Gossip("ring", fs.compressors.TopK(0.1)),
        )


stack = fs.AgentStack(model, agents=4)
own = Own(stack.parameters())


def of_all() -> torch.Tensor:
    own.zero_grad()
    loss = stack.loss(F.cross_entropy, stack(x.expand(4, 4, 8)), y.expand(4, 4))
    loss.backward()
    return loss


losses: torch.Tensor = own.step(of_all)
consensus: nn.Module = stack.consensus()
for plan in (fs.comm.Average(period=2), fs.comm.Elastic(), fs.comm.PushPull("directed-ring")):
    fs.Optimizer(stack.parameters(), communicator=plan)
seen = fs.sharpness.top_eigenvalue(model, F.cross_entropy, x, y)

run: fs.sim.Run = fs.sim.train(algorithm="qsaddle", agents=4, steps=4, out="run", quiet=True)
rows = run.rows[-1]["step"], run.metrics
trained: nn.Module = run.model()
compared: fs.sim.Comparison = fs.sim.compare(algorithm=["qsaddle", "dsgdm"], steps=4)
"""

# fastsaddle as mypy sees one that is installed: declarations are read, and errors in it are its own
SETTINGS = """
[mypy]
strict = True
untyped_calls_exclude = torch

[mypy-fastsaddle.*]
ignore_errors = True

# thousands of files behind parts that are not called here
[mypy-transformers.*,wandb.*,IPython.*]
follow_imports = skip
"""
# the codes of the errors that mypy is to find, each behind its line
WRONG = """
import torch

import fastsaddle as fs

model = torch.nn.Linear(8, 3)
optimizer = fs.QSADDLe(model.parameters())
fs.QSADDLe(model.parameters(), rho="x")  # arg-type
fs.QSADDLe(model.parameters(), nonfinite="never")  # arg-type
fs.Optimizer(model.parameters(), communicator="ring")  # arg-type
fs.Optimizer(model.parameters(), rule=fs.gradients.SAM())  # arg-type
optimizer.step(1)  # call-overload
optimizer.step(closure_passes=3)  # call-overload
optimizer.steps()  # attr-defined
number: int = optimizer.step(lambda: torch.zeros(()))  # assignment
fs.sim.train(agents=4, quiet="yes")  # arg-type
"""


def test_right_code_has_no_error_and_wrong_calls_are_told(tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    command = [sys.executable, "-m", "mypy", "--no-incremental", "right.py", "wrong.py"]
    # an editable installation may be one that type checkers cannot follow
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = re.findall(r"^((?:right|wrong)\.py:\d+): error: .*\[([\w-]+)\]$", done.stdout, re.M)
    expected = [
        (f"wrong.py:{number}", line.rpartition("# ")[2])
        for number, line in enumerate(WRONG.splitlines(), 1)
        if "# " in line
    ]
    assert found == expected, done.stdout + done.stderr
