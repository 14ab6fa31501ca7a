"""Methods of one's own on the command line: a rule, a gradient or an optimizer in one file, and SAM for any method."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim import methods
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run.simulation import Simulation

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLES = (("decentlam.py", "DecentLaM"), ("exact_diffusion.py", "ExactDiffusion"))
OWN = '''
import torch
import fastsaddle as fs


class Plain(fs.rules.Rule):
    """D-PSGD, with a number and a flag."""

    label = "my own"
    hyperparameters = {
        "momentum": fs.rules.Range(0, 1, default=0.5),
        "nesterov": fs.rules.Flag(),
        "scale": fs.rules.Range(0, 10, default=1.0),
    }
    states = (fs.rules.State("momentum_buffer"),)

    def step(self, rows, comm):
        rows.x.copy_(comm.mixed(rows.descended(rows.x, rows["scale"] * rows.g)))


class Doubled(fs.gradients.Gradient):
    def take(self, optimizer, closure, passes=None):
        loss = super().take(optimizer, closure, passes)
        optimizer.rows.g.mul_(2)
        return loss


class Whole(fs.Optimizer):
    def __init__(self, params, lr=0.1, *, topology=None, speed: float = 1.0, seed=0):
        super().__init__(params, lr * speed, communicator=fs.comm.Gossip(topology), seed=seed)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def simulated(**options: Any) -> Simulation:
    return Simulation(TrainConfig(agents=4, steps=3, **options))


def rows_after(simulation: Simulation, steps: int = 3) -> torch.Tensor:
    for step in range(steps):
        simulation.step(step)
    return simulation.stack.x.clone()


def test_a_rule_is_what_it_says(own: Path) -> None:
    """With momentum 0.5 and scale 1 it is DSGDm, so that options reach it where the rows agree."""
    rule = rows_after(simulated(algorithm="own.py:Plain"))
    assert torch.equal(rule, rows_after(simulated(algorithm="dsgdm", momentum=0.5)))
    nesterov = rows_after(simulated(algorithm="own.py:Plain", option="nesterov=true,momentum=0.7"))
    expected = rows_after(simulated(algorithm="dsgdm", momentum=0.7, nesterov=True))
    assert torch.equal(nesterov, expected) and not torch.equal(rule, nesterov)
    for options in ({"momentum": 0.7, "nesterov": True}, {"option": "momentum=0.7,nesterov=true"}):
        assert torch.equal(rows_after(simulated(algorithm="own.py:Plain", **options)), expected)
    assert torch.equal(rows_after(simulated(algorithm="own.py:Plain:0.7:true")), expected)
    zero = rows_after(simulated(algorithm="own.py:Plain", momentum=0.0))
    assert torch.equal(zero, rows_after(simulated(algorithm="dsgdm", momentum=0.0)))


def test_an_optimizer_and_a_gradient(own: Path) -> None:
    plain = rows_after(simulated(algorithm="dsgd", lr=0.2))
    assert torch.equal(plain, rows_after(simulated(algorithm="own.py:Whole", option="speed=2")))
    doubled = rows_after(simulated(algorithm="dsgd", gradient="own.py:Doubled"))
    assert (doubled - plain).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("algorithm", "options", "aware"),
    [
        ("dsgd", {}, "dsaddle"),
        ("qgm", {}, "qsaddle"),
        ("ngm", {}, "nsaddle"),
        ("ngm", {"cross_gradients": "model"}, "nsaddle"),
    ],
)
def test_sam_for_a_method_is_its_sharpness_aware_relative(
    algorithm: str, options: dict[str, Any], aware: str
) -> None:
    for sam in ("full", "looksam:2"):
        both = {**options, "sam": sam, "rho": 0.2}
        by_option = rows_after(simulated(algorithm=algorithm, gradient="sam", **both))
        assert torch.equal(by_option, rows_after(simulated(algorithm=aware, **both)))
    assert torch.equal(
        rows_after(simulated(algorithm=aware, gradient="plain", **options)),
        rows_after(simulated(algorithm=algorithm, **options)),
    )


@pytest.mark.parametrize("algorithm", [n for n in methods.names() if n != "relay-sgd"])
def test_every_method_takes_sam(algorithm: str) -> None:
    options = {"consensus_step": 0.5} if algorithm == "d2" else {}
    with_sam = simulated(algorithm=algorithm, gradient="sam", rho=0.3, **options)
    without = simulated(algorithm=algorithm, gradient="plain", **options)
    assert with_sam.optimizer.evaluations == 2 * without.optimizer.evaluations
    assert not torch.equal(rows_after(with_sam), rows_after(without))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (
            "--option mom=0.5",
            "--option mom needs an algorithm that has it, own.py:Plain has momentum",
        ),
        ("--option momentum", "--option must be name=value, got 'momentum'"),
        ("--option momentum=high", "--option momentum must be in [0, 1), got 'high'"),
        ("--option nesterov=maybe", "--option nesterov must be true or false, got 'maybe'"),
        ("--option momentum=1.5", "momentum must be in [0, 1), got 1.5"),
        ("--gradient steep", "--gradient must be one of auto, plain, sam, or your own"),
        ("--gradient own.py:Plain", "--gradient own.py:Plain must be a subclass of fs.gradients"),
        ("--rho 0.1 --adaptive true", "Unrecognized"),
        ("--adaptive", "own.py:Plain takes no --adaptive: add --gradient sam"),
        ("--algorithm own.py:torch", "own.py"),
        ("--algorithm own.py:Doubled", "must be a subclass of fs.rules.Rule or fs.Optimizer"),
        ("--algorithm own.py:Whole --gradient sam", "own.py:Whole says itself where its gradients"),
    ],
)
def test_what_cannot_be_is_one_line(
    options: str, rule: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options.split()
    algorithm = [] if "--algorithm" in given else ["--algorithm", "own.py:Plain"]
    try:
        status = main(["train", *algorithm, *given, "--out", "run"])
    except SystemExit as stop:
        status = int(stop.code or 0)
    said = capsys.readouterr()
    assert status == 2 and rule in said.err + said.out
    assert not (own / "run").exists()


def test_train_compare_and_report_by_its_label(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--agents", "4", "--steps", "6", "--batch-size", "8"]
    rule = ["--algorithm", "own.py:Plain", "--option", "momentum=0.6", "--gradient", "sam"]
    assert main(["train", *rule, *small, "--out", "run"]) == 0
    said = capsys.readouterr().out
    assert "my own with SAM gradients, momentum 0.6" in said and "own.py" not in said
    assert main(["train", "--resume", "run"]) == 0
    grid = ["--algorithm", "own.py:Plain", "dsgd", "--gradient", "plain", "sam", "--seed", "0"]
    assert main(["compare", *grid, *small, "--out", "both"]) == 0
    table = (own / "both" / "table.md").read_text()
    assert "my own" in table and "own.py" not in table and "sam" in table
    assert main(["report", "run", "both", "--out", "page.html"]) == 0
    page = (own / "page.html").read_text()
    assert "my own" in page and str(own) not in page


def test_state_of_an_own_rule_goes_on(own: Path) -> None:
    found = methods.find("own.py:Plain")
    p = nn.Parameter(torch.randn(4, 3))
    optimizer = found(
        params=[p], lr=0.1, topology="ring", compressor=None, consensus_step=1.0,
        weight_decay=0.0, state_dtype=torch.float32, seed=0,
    )  # fmt: skip
    assert isinstance(optimizer, fs.Optimizer) and optimizer.who == "my own"
    p.grad.copy_(torch.randn(4, 3))
    optimizer.step()
    assert "momentum_buffer" in optimizer.state_dict()["state"][0]


def test_the_examples_through_train_compare_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(__file__).parents[2] / "examples" / "own_methods"
    own = [f"{folder / file}:{name}" for file, name in EXAMPLES]
    monkeypatch.chdir(tmp_path)
    small = ["--agents", "4", "--steps", "6", "--batch-size", "8"]
    for number, algorithm in enumerate(own):
        assert main(["train", "--algorithm", algorithm, *small, "--out", f"run-{number}"]) == 0
    assert (
        main(["compare", "--algorithm", *own, "dsgd", *small, "--seed", "0", "--out", "all"]) == 0
    )
    table = (tmp_path / "all" / "table.md").read_text()
    assert main(["report", "run-0", "run-1", "all", "--out", "page.html"]) == 0
    page = (tmp_path / "page.html").read_text()
    for shown in (table, page):
        assert "DecentLaM" in shown and "exact diffusion" in shown and str(folder) not in shown
