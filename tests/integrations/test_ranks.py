"""Scripts that torchrun starts, an agent a process or several: agents are apart, and have the bits of one process."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import fastsaddle as fs
from tests.integrations import ddp_agents

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "loops"
SECONDS = 120
Left = dict[str, Any]


def launch(script: Path, ranks: int, folder: Path) -> tuple[list[Left], str]:
    """What a script leaves on its ranks under torchrun, see launched.py, and what it prints."""
    worker = ROOT / "tests" / "integrations" / "launched.py"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", *launcher, *map(str, (worker, script, folder))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        # torchrun ends its workers, which are in sessions of their own
        process.terminate()
        out, errors = process.communicate(timeout=SECONDS)
        pytest.fail(f"no end after {SECONDS} s:\n{errors[-3000:]}")
    assert process.returncode == 0, errors[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)], out


def run_example(name: str, ranks: int, folder: Path) -> list[Left]:
    """What an example leaves on its ranks, when its consensus model has learned."""
    left, out = launch(EXAMPLES / f"ranks_{name}.py", ranks, folder)
    (told,) = re.findall(r"^accuracy of the consensus model: (.*)$", out, re.MULTILINE)
    assert float(told) > 0.9
    return left


def test_a_plain_loop_has_the_bits_of_the_stack(tmp_path: Path) -> None:
    """Its data and draws anew, in one process, with each agent's gradient taken by a module of its own."""
    found = run_example("plain_loop", 4, tmp_path)
    agents = len(found)
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    trained = torch.arange(len(y)) % 5 != 0
    x, y = x[trained], y[trained]
    parts = y.argsort(stable=True).tensor_split(agents)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    stack = fs.AgentStack(model, agents)
    optimizer = fs.QSADDLe(stack.parameters(), lr=0.1, rho=0.05, topology="ring")
    draws = [torch.Generator().manual_seed(agent) for agent in range(agents)]

    def closure() -> None:
        optimizer.zero_grad()
        for agent, batch in enumerate(batches):
            alone = stack.agent(agent, perturbed=True)
            F.cross_entropy(alone(x[batch]), y[batch]).backward()
            for p, its in zip(stack.parameters(), alone.parameters(), strict=True):
                p.grad[agent] = its.grad

    for _ in range(300):
        batches = [
            part[torch.randint(len(part), (64,), generator=draw)]
            for part, draw in zip(parts, draws, strict=True)
        ]
        optimizer.step(closure)
    for agent, left in enumerate(found):
        for name, value in stack.agent(agent).state_dict().items():
            assert torch.equal(left["model"][name], value), (agent, name)
        for name, value in stack.consensus().state_dict().items():
            assert torch.equal(left["averaged"][name], value), (agent, name)
    assert not torch.equal(stack.x[0], stack.x[1])


@pytest.mark.parametrize("name", ["lightning", "accelerate"])
def test_trainers_leave_each_agent_its_own_gradients(name: str, tmp_path: Path) -> None:
    one, other = run_example(name, 2, tmp_path)
    assert len(one["gradients"]) == 6
    for mine, its in zip(one["gradients"], other["gradients"], strict=True):
        assert not torch.equal(mine, its)
    # nor does anybody broadcast statistics, which DDP would
    name = next(name for name in one["model"] if name.endswith("running_mean"))
    assert not torch.equal(one["model"][name], other["model"][name])
    assert all(torch.equal(value, other["averaged"][n]) for n, value in one["averaged"].items())


def test_agents_of_several_ranks(tmp_path: Path) -> None:
    stack = fs.AgentStack(ddp_agents.network(), ddp_agents.AGENTS)
    optimizer = fs.QSADDLe(stack.parameters(), **ddp_agents.OPTIONS)
    for x, y in zip(*ddp_agents.batches(), strict=True):

        def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> None:
            optimizer.zero_grad()
            stack.loss(F.cross_entropy, stack(x), y).backward()

        optimizer.step(closure)
    found, _ = launch(Path(ddp_agents.__file__), 4, tmp_path)
    models, means = ([left[what] for left in found] for what in ("model", "averaged"))
    wanted = [stack.agent(agent).state_dict() for agent in (0, 0, 1, 1)]
    for model, mean, expected in zip(models, means, wanted, strict=True):
        torch.testing.assert_close(model, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(mean, stack.consensus().state_dict(), rtol=0, atol=1e-6)
    for name in models[0]:
        for rank in (0, 2):
            assert torch.equal(models[rank][name], models[rank + 1][name]), name
        assert all(torch.equal(mean[name], means[0][name]) for mean in means), name
        assert not torch.equal(models[0][name], models[2][name]), name
