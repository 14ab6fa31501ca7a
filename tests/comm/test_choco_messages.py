"""What compressed messages are counted as, and bad input: clear errors, and nothing half done."""

from collections.abc import Mapping
from typing import Any

import networkx as nx
import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.compressors import Compressor, RandomK, Sign, StochasticQuantizer, TopK
from tests.comm.test_choco import Own, each_order
from tests.optimizers.test_optimizer_refusals import METHODS, SHARP, Work, untouched

pytestmark = pytest.mark.usefixtures("one_thread")
each_pass = pytest.mark.parametrize(
    ("method", "bad_pass"), [(m, 1) for m in METHODS.values()] + [(m, 2) for m in SHARP]
)
# of one agent's two groups: (4, 5) and a number; 700
BYTES: Mapping[str, tuple[fs.Choco | Compressor | None, int]] = {
    "none": (None, 4 * 721),
    "8 bits": (StochasticQuantizer(8), (20 + 4) + (1 + 4) + (700 + 2 * 4)),
    "8 bits in parts": (StochasticQuantizer(8, bucket=2048), (20 + 4) + (1 + 4) + (700 + 4)),
    "4 bits": (StochasticQuantizer(4), (10 + 4) + (1 + 4) + (350 + 2 * 4)),
    "4 bits and signs": (
        StochasticQuantizer(4, levels=15),
        (10 + 3 + 4) + (1 + 1 + 4) + (350 + 88 + 2 * 4),
    ),
    "2 bits": (fs.Choco(StochasticQuantizer(2, biased=True)), (5 + 4) + (1 + 4) + (175 + 2 * 4)),
    "sign": (Sign(), (3 + 4) + (1 + 4) + (88 + 4)),
    "top-k": (fs.Choco(TopK(0.1), "mix-then-compress"), 8 * (2 + 1 + 70)),
    # a seed for each group
    "random-k": (fs.Choco(RandomK(0.1), running_sum=True), (8 + 4 * 3) + (8 + 4 * 70)),
    # it sends its padding, whatever its wire_bytes say
    "own": (Own(), 4 * (32 + 32) + 4 * 704),
}
# with the sum of degrees
GRAPHS: dict[str, tuple[fs.Topology, int]] = {
    "ring": (fs.topology.ring(5), 2 * 5),
    "pair": (fs.topology.ring(2), 2),
    "star": (fs.topology.star(6), 10),
    "tadpole": (fs.topology.from_networkx(nx.Graph([(0, 1), (1, 2), (2, 0), (2, 3)])), 8),
    "loner": (fs.topology.ring(1), 0),
}


def small(agents: int, seed: int, **options: Any) -> Any:
    draw = torch.Generator().manual_seed(seed)
    shapes = ((4, 5), (), (700,))
    a, b, c = (nn.Parameter(torch.randn(agents, *s, generator=draw)) for s in shapes)
    given = [{"params": [a, b]}, {"params": [c]}]
    optimizer = fs.QGM(given, lr=0.1, consensus_step=0.3, **options)
    for p in (a, b, c):
        p.grad = torch.randn(p.shape, generator=draw)
    return optimizer


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("kind", BYTES)
def test_bytes_are_those_of_the_messages(kind: str, graph: str, seed: int) -> None:
    compressor, message = BYTES[kind]
    topology, messages = GRAPHS[graph]
    optimizer = small(topology.agents, seed, topology=topology, compressor=compressor)
    for steps in (1, 2, 3):
        optimizer.step()
        assert optimizer.bytes_sent == steps * messages * message
        assert isinstance(optimizer.bytes_sent, int)
    q = compressor.compressor if isinstance(compressor, fs.Choco) else compressor
    if q is not None and kind != "own":
        layouts = [optimizer.rows.layout.group(k) for k in (0, 1)]
        assert sum(q.message_bytes(layout) for layout in layouts) == message


@pytest.mark.parametrize("kind", BYTES)
def test_a_lonely_module_sends_nothing(kind: str, seed: int) -> None:
    """Without a topology the compressor is left alone; with a graph of one agent it is used, and pulls nowhere."""
    compressor, _ = BYTES[kind]
    options: list[dict[str, Any]] = [
        {"topology": None, "compressor": compressor},
        {"topology": None},
        {"topology": "ring", "compressor": compressor},
    ]
    runs = [small(1, seed, **each) for each in options]
    for optimizer in runs:
        for _ in range(3):
            optimizer.step()
        assert optimizer.bytes_sent == 0
        assert torch.equal(optimizer.rows.x, runs[0].rows.x)
    assert list(runs[0].flat_state) == ["quasi_global"] and not runs[0].squares.any()


@each_order
@pytest.mark.parametrize("kind", [k for k in BYTES if k not in ("none", "random-k")])
def test_squares_of_the_last_step(kind: str, order: Any, seed: int) -> None:
    """The message is what the public copies moved by; both groups count, and only the last step."""
    given, _ = BYTES[kind]
    q = given.compressor if isinstance(given, fs.Choco) else given
    assert q is not None
    optimizer = small(5, seed, topology="ring", compressor=fs.Choco(q, order))
    for _ in range(3):
        x, hat = optimizer.rows.x.clone(), optimizer.flat_state["x_hat"].clone().double()
        g, m = optimizer.rows.g, optimizer.flat_state["quasi_global"].clone()
        optimizer.step()
        h = x.double() - 0.1 * (g.double() + 0.9 * m.double())
        sent_model = h if order == "compress-then-mix" else optimizer.rows.x.double()
        t = sent_model - hat
        lost = optimizer.flat_state["x_hat"].double() - hat - t
        expected = torch.stack([t.norm(dim=1), lost.norm(dim=1)], 1)
        assert (optimizer.squares.sqrt() - expected).abs().max() <= 1e-4
        worst = max(1 - q.delta(dim) for dim in (20, 1, 700))
        if not isinstance(q, StochasticQuantizer):
            assert (optimizer.squares[:, 1] <= worst * optimizer.squares[:, 0] * (1 + 1e-5)).all()


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "compressor": ({"compressor": Sign}, "compressor must be None, an fs.compressors.Compressor"),
    "gamma": (
        {"consensus_step": 1.5, "compressor": Sign()},
        r"consensus_step must be in \[0, 1\], got 1\.5",
    ),
    "gamma below": (
        {"consensus_step": -0.1, "compressor": Sign()},
        r"consensus_step must be in \[0, 1\], got -0\.1",
    ),
    "gamma nan": (
        {"consensus_step": float("nan"), "compressor": Sign()},
        r"consensus_step must be in \[0, 1\], got nan",
    ),
    "seed": ({"seed": -1}, r"seed must be a whole number in \[0, 2\^63\), got -1"),
    "large seed": ({"seed": 2**63}, r"seed must be .* in \[0, 2\^63\), got 9223372036854775808"),
    "part of a seed": ({"seed": 1.5}, r"seed must be a whole number .* got 1\.5"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_options(case: str, seed: int) -> None:
    options, message = CASES[case]
    draw = torch.Generator().manual_seed(seed)
    for method in METHODS.values():
        parameters = [nn.Parameter(torch.randn(3, n, generator=draw)) for n in (4, 33)]
        same = untouched(parameters)
        with pytest.raises(ValueError, match=message):
            method(parameters, **{"lr": 0.1, "topology": "ring", **options})
        assert same()


def test_bad_gamma_without_a_graph() -> None:
    for compressor in (None, Sign()):
        with pytest.raises(ValueError, match=r"consensus_step must be in \[0, 1\], got 2"):
            fs.DSGD([nn.Parameter(torch.randn(3))], consensus_step=2, compressor=compressor)


def test_bad_choco() -> None:
    given: Any
    for given in ("x", None, Sign, fs.Choco(Sign())):
        with pytest.raises(ValueError, match=r"compressor must be None.* in an fs\.Choco, got "):
            fs.Choco(given)
    order: Any = "y"
    message = "order must be one of compress-then-mix, mix-then-compress, got 'y'"
    with pytest.raises(ValueError, match=message):
        fs.Choco(Sign(), order)


CHOCOS = (StochasticQuantizer(8), RandomK(0.5), fs.Choco(Sign(), "mix-then-compress", True, True))


@each_pass
def test_nonfinite_gradients_change_nothing(method: type[Any], bad_pass: int, seed: int) -> None:
    for choco in CHOCOS:
        work, twin = (Work(method, seed, compressor=choco, consensus_step=0.5) for _ in range(2))
        work.step()
        twin.step()
        before, sent = work.values(), work.optimizer.bytes_sent
        factors = [torch.ones(3)] * (bad_pass - 1) + [torch.tensor([1.0, torch.nan, 1.0])]
        with pytest.raises(fs.NonFiniteGradientError, match=r"must be finite.*for agents \[1\]"):
            work.step(*factors)
        assert work.equals(before) and work.optimizer.bytes_sent == sent
        assert int(work.optimizer.rounds) == 1
        work.step()
        twin.step()
        assert work.equals(twin.values())


@each_pass
def test_skipped_agents_compress_and_mix(method: type[Any], bad_pass: int, seed: int) -> None:
    """Like a rate of zero for the agent, which then keeps its momentum, local momentum too."""
    for choco in CHOCOS:
        options = {"compressor": choco, "consensus_step": 0.5, "nonfinite": "skip"}
        work, twin = (Work(method, seed, **options) for _ in range(2))
        work.step()
        twin.step()
        name = work.optimizer.rule.ascent_state
        held = {k: v.clone() for k, v in work.optimizer.flat_state.items()}
        before, sent = work.optimizer.rows.x.clone(), work.optimizer.bytes_sent
        work.step(*[torch.ones(3)] * (bad_pass - 1), torch.tensor([1.0, torch.nan, 1.0]))
        for group in twin.optimizer.param_groups:
            group["lr"] = torch.tensor([0.02, 0.0, 0.02])
        twin.step()
        for key, value in work.optimizer.flat_state.items():
            rows = [0, 2] if key == name else [0, 1, 2]
            assert torch.equal(value[rows], twin.optimizer.flat_state[key][rows])
            assert torch.equal(value[1], held[key][1]) == (key == name)
        assert torch.equal(work.optimizer.rows.x, twin.optimizer.rows.x)
        assert not torch.equal(work.optimizer.rows.x[1], before[1])
        assert work.optimizer.bytes_sent == 2 * sent
