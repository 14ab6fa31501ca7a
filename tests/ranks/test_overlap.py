"""Messages that travel while gradients are taken change no bit, and nobody misses what they carry."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.ranks.errors import PeerError
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.thread_transport import run_in_threads
from tests.ranks.over_threads import (
    AGENTS,
    COUNTS,
    assert_equal,
    closure_of,
    joined,
    models_of,
    run,
    run_apart,
    spread,
    start,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*may oscillate"),
]
MIX_FIRST = fs.Choco(fs.compressors.StochasticQuantizer(8), order="mix-then-compress")


def d_psgd(params: Any, lr: float, topology: str, **more: Any) -> Any:
    """D-PSGD as it was published: gradients at the models that are being sent."""
    return fs.Optimizer(
        params,
        lr,
        rule=fs.rules.AdaptedMomentum("none"),
        communicator=fs.comm.Gossip(topology),
        **more,
    )


def often(params: Any, lr: float, topology: str, **more: Any) -> Any:
    """Several gossips in a row, every second step."""
    comm = fs.comm.Gossip(topology, MIX_FIRST, 0.4, every=2, rounds=2)
    return fs.Optimizer(params, lr, rule=fs.rules.Momentum("local"), communicator=comm, **more)


CASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "gradient tracking": (fs.GradientTracking, {"momentum": 0.9}),
    "momentum tracking": (fs.MomentumTracking, {}),
    "D-PSGD": (d_psgd, {}),
    "NGM": (fs.NGM, {}),
    "NGM, model-variant": (fs.NGM, {"cross_gradients": "model"}),
    "NGM, mixed self-gradient": (fs.NGM, {"mixed_self_gradient": True}),
    "N-SADDLe": (fs.NSADDLe, {}),
    "N-SADDLe, 8 bits": (fs.NSADDLe, {"compressor": fs.compressors.StochasticQuantizer(8)}),
    "NGM, top-k": (fs.NGM, {"compressor": fs.compressors.TopK(0.3)}),
    "QGM, mixing first": (fs.QGM, {"compressor": MIX_FIRST, "consensus_step": 0.4}),
    "gradient tracking, 8 bits": (
        fs.GradientTracking,
        {"compressor": fs.compressors.StochasticQuantizer(8), "consensus_step": 0.4},
    ),
    "tracking, mixing first": (
        fs.GradientTracking,
        {"compressor": MIX_FIRST, "consensus_step": 0.4},
    ),
    "D2, mixing first": (fs.D2, {"compressor": MIX_FIRST, "consensus_step": 0.4}),
    "several gossips, mixing first": (often, {}),
    # nothing to overlap
    "Q-SADDLe": (fs.QSADDLe, {}),
}


def make(name: str, params: Any, topology: str = "ring", **more: Any) -> Any:
    method, options = CASES[name]
    return method(params, lr=0.03, topology=topology, weight_decay=0.01, **{**options, **more})


@pytest.mark.parametrize("name", CASES)
def test_no_bit_changes(name: str, seed: int) -> None:
    graphs = ["ring"] if "N" in name.split("-")[0] else ["ring", "star"]
    for k, graph in enumerate(graphs):
        build = partial(make, name, topology=graph)
        whole = run(build, start(seed + k), slice(0, AGENTS), 4)
        for counts in COUNTS[:4] if k == 0 else COUNTS[2:3]:
            parts = run_apart(build, start(seed + k), counts, 4, overlap="auto")
            assert_equal(joined(parts), whole)


@pytest.mark.parametrize("name", ["gradient tracking", "QGM, mixing first", "N-SADDLe"])
def test_a_run_goes_on_from_its_state(name: str, seed: int) -> None:
    """Also on other ranks, and in the same optimizer, whose messages for the step that never was are dropped."""
    build, first = partial(make, name), start(seed)
    whole = run(build, first, slice(0, AGENTS), 5)
    parts = run_apart(build, first, (3, 5), 2, overlap="auto")
    models, placed = models_of(parts), ((0, 2), (2, 3), (3, 8))
    states = [spread(parts, *part) for part in placed]
    later = run_apart(build, models, (2, 1, 5), 3, states, overlap="auto")
    got = joined(later)
    assert torch.equal(got.x, whole.x)
    assert all(torch.equal(got.states[n], rows) for n, rows in whole.states.items())


def steps_of(
    optimizer: Any, first: int, count: int, losses: list[torch.Tensor] | None = None
) -> None:
    closure = closure_of(optimizer, first, [] if losses is None else losses)
    for _ in range(count):
        optimizer.step(closure)


def over_two(work: Callable[[Placement, Any], Any], seed: int, name: str) -> list[Any]:
    """What `work` gives of the optimizers of two threads with four agents each."""
    models = start(seed)

    def run_here(transport: Any) -> Any:
        here = Placement((4, 4), transport, "auto")
        part = slice(here.first_agent, here.first_agent + 4)
        params = [nn.Parameter(model[part].clone()) for model in models]
        return work(here, make(name, params, placement=here))

    return run_in_threads(2, run_here, timeout=20)


@pytest.mark.parametrize("name", ["gradient tracking", "momentum tracking", "D-PSGD"])
def test_messages_leave_when_a_step_ends(name: str, seed: int) -> None:
    def work(here: Placement, optimizer: Any) -> tuple[int, int]:
        steps_of(optimizer, here.first_agent, 1)
        before = optimizer.bytes_on_wire, len(here.under_way)
        here.finish()
        assert not here.under_way
        return optimizer.bytes_on_wire - before[0], before[1]

    for nbytes, begun in over_two(work, seed, name):
        assert begun == 1 and nbytes > 0


def test_parameters_that_others_change_are_refused(seed: int) -> None:
    def work(here: Placement, optimizer: Any) -> Any:
        steps_of(optimizer, here.first_agent, 2)
        if here.rank == 1:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].add_(1)
        # rank 0 has all that the first of them needs
        steps_of(optimizer, here.first_agent, 2)

    first, second = over_two(work, seed, "gradient tracking")
    assert isinstance(second, RuntimeError) and 'overlap="off"' in str(second)
    assert isinstance(first, PeerError) and first.rank == 1 and "overlap" in first.cause


def test_what_was_sent_for_a_step_is_dropped_where_all_load(seed: int) -> None:
    def work(here: Placement, optimizer: Any) -> torch.Tensor:
        params = optimizer.param_groups[0]["params"]
        kept, models = optimizer.state_dict(), [p.detach().clone() for p in params]
        kept = {"state": {i: dict(v) for i, v in kept["state"].items()}, **kept}
        losses: list[torch.Tensor] = []
        found = []
        for _ in range(2):
            steps_of(optimizer, here.first_agent, 3, losses)
            found.append(optimizer.gathered())
            with torch.no_grad():
                for p, model in zip(params, models, strict=True):
                    p.copy_(model)
            optimizer.load_state_dict(kept)
        assert torch.equal(*found)
        return found[0]

    first, second = over_two(work, seed, "D-PSGD")
    assert torch.equal(first, second)


def test_a_failure_is_told_while_messages_are_under_way(seed: int) -> None:
    def work(here: Placement, optimizer: Any) -> Any:
        steps_of(optimizer, here.first_agent, 2)
        assert here.under_way

        def fails() -> torch.Tensor:
            raise ArithmeticError("no gradient")

        if here.rank == 0:
            optimizer.step(fails)
        steps_of(optimizer, here.first_agent, 2)

    first, second = over_two(work, seed, "gradient tracking")
    assert isinstance(first, ArithmeticError)
    assert isinstance(second, PeerError) and second.rank == 0 and "no gradient" in second.cause


@pytest.mark.filterwarnings("ignore:.*compressed messages go to the neighbors of any round")
@pytest.mark.parametrize("compressor", ["8 bits", "top-k"])
def test_codes_of_who_is_down_move_no_copy(compressor: str, seed: int) -> None:
    """Nor are those lost that came for a step in which somebody is down."""
    choco = MIX_FIRST
    if compressor == "top-k":
        choco = fs.Choco(fs.compressors.TopK(0.3), order="mix-then-compress")
    graph = fs.Faults(agents=0.2, seed=seed).over(fs.topology.ring(AGENTS))
    build = partial(make, "QGM, mixing first", compressor=choco, topology=graph)
    whole = run(build, start(seed), slice(0, AGENTS), 8)
    assert any(graph.down(t).any() for t in range(8))
    assert_equal(joined(run_apart(build, start(seed), (3, 5), 8, overlap="auto")), whole)


@pytest.mark.parametrize("overlap", ["off", "auto"])
@pytest.mark.parametrize("name", ["compress first", "mix first", "top-k"])
def test_a_step_that_all_refuse_late_moves_no_copy(name: str, overlap: str, seed: int) -> None:
    """The second group's models cannot be sent when the first one's have been."""
    choco: Any = {
        "compress first": fs.compressors.StochasticQuantizer(8),
        "mix first": MIX_FIRST,
        "top-k": fs.compressors.TopK(0.3),
    }[name]
    build = partial(make, "QGM, mixing first", compressor=choco)
    whole = run(build, start(seed), slice(0, AGENTS), 5)

    def work(transport: Any) -> torch.Tensor:
        here = Placement((3, 5), transport, overlap)
        part = slice(here.first_agent, here.first_agent + here.agents)
        a, b, c = (nn.Parameter(model[part].clone()) for model in start(seed))
        groups = [{"params": [a, b]}, {"params": [c], "lr": 0.01}]
        optimizer = build(groups, placement=here)
        closure = closure_of(optimizer, part.start, [])

        def too_large() -> torch.Tensor:
            loss = closure()
            c.grad.mul_(1e8)
            return loss

        for step in range(5):
            if step == 2:
                groups[1]["lr"] = 3e38
                with pytest.raises(ValueError, match="only finite values can be compressed"):
                    optimizer.step(too_large)
                groups[1]["lr"] = 0.01
            optimizer.step(closure)
        return optimizer.gathered()

    for rows in run_in_threads(2, work, timeout=20):
        assert isinstance(rows, torch.Tensor), rows
        assert torch.equal(rows, whole.optimizer.gathered())


def test_another_word_is_refused() -> None:
    def work(transport: Any) -> Any:
        return Placement((1, 1), transport, "always")  # type: ignore[arg-type]

    for error in run_in_threads(2, work, timeout=20):
        assert isinstance(error, ValueError) and 'must be "off" or "auto"' in str(error)
