"""With compressed messages, too, any placement of the agents has the bits of one stack, and sends what it counts."""

import copy
import inspect
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import networkx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import fastsaddle as fs
from fastsaddle import compressors as fc
from fastsaddle.comm.choco import CompressedGossip
from fastsaddle.compressors._wire import NonFiniteError
from fastsaddle.ranks.errors import PeerError
from fastsaddle.ranks.header import SIZE
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.thread_transport import run_in_threads
from tests.comm.compressor_cases import OWN
from tests.optimizers import public_methods
from tests.ranks.over_threads import (
    AGENTS,
    SHAPES,
    Found,
    assert_equal,
    found,
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
METHODS = {
    name: method
    for name, method in public_methods.METHODS.items()
    if "compressor" in inspect.signature(method).parameters
}
MIX_FIRST = "mix-then-compress"
MESSAGES: dict[str, Any] = {
    "8 bits": fc.StochasticQuantizer(8),
    "4 bits": fc.StochasticQuantizer(4, bucket=32),
    "published": fc.StochasticQuantizer(4, bucket=None, norm="l2", levels=15, biased=True),
    "sign": fc.Sign(),
    "top-k": fc.TopK(0.3),
    "random-k": fc.RandomK(0.3),
    "identity": fc.Identity(),
    "own": OWN,
    "mixing first": fs.Choco(fc.StochasticQuantizer(8), order=MIX_FIRST),
    "mixing first whole": fs.Choco(fc.Identity(), order=MIX_FIRST),
    "running sum": fs.Choco(fc.StochasticQuantizer(4), running_sum=True),
    "adaptive": fs.Choco(fc.RandomK(0.5), adaptive=True),
    "all options": fs.Choco(fc.Sign(), MIX_FIRST, running_sum=True, adaptive=True),
}
COUNTS = ((1,) * 8, (3, 1, 2, 2), (3, 5))
# tensors that fill their columns
WHOLE = ((64,), (32, 3), (1056,))
QUANTIZERS = (
    fc.StochasticQuantizer(8),
    fc.StochasticQuantizer(4, bucket=32),
    fc.StochasticQuantizer(2),
    fc.StochasticQuantizer(4, bucket=1024, levels=15),
)
# with less usual messages those that send one row buffer, several, and edges'
SOME = ("QGM", "MomentumTracking", "NGM")
UNUSUAL = ("published", "own", "mixing first whole", "all options")
CASES = [(n, m) for n in METHODS for m in MESSAGES if n in SOME or m not in UNUSUAL]
KEPT = {name: MESSAGES[name] for name in ("8 bits", "random-k", "running sum", "mixing first")}


def make(name: str, message: Any, params: Any, **more: Any) -> Any:
    given = {"lr": 0.03, "weight_decay": 0.01, "topology": "ring", "consensus_step": 0.4}
    return METHODS[name](params, compressor=message, seed=5, **{**given, **more})


def gossip(message: Any, params: Any, every: int = 1, rounds: int = 1, **more: Any) -> Any:
    comm = fs.comm.Gossip("exponential", message, 0.4, every=every, rounds=rounds)
    rule = fs.rules.Momentum("local")
    return fs.Optimizer(params, 0.03, rule=rule, communicator=comm, seed=5, **more)


def check(
    build: Callable[..., Any],
    seed: int,
    counts: tuple[tuple[int, ...], ...],
    steps: int = 4,
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
) -> None:
    models = start(seed, shapes)
    whole = run(build, models, slice(0, AGENTS), steps)
    for each in counts:
        parts = run_apart(build, models, each, steps)
        assert_equal(joined(parts), whole)
        squares = torch.cat([part.optimizer.squares for part in parts])
        if whole.optimizer.communicator.may_refuse:
            assert torch.equal(squares, whole.optimizer.squares)
        else:
            # one kernel sums them in another order
            assert torch.allclose(squares, whole.optimizer.squares, rtol=2**-16)


@pytest.mark.parametrize(("name", "message"), CASES, ids=["-".join(case) for case in CASES])
def test_a_placement_changes_no_bit(
    name: str, message: str, seed: int, request: pytest.FixtureRequest
) -> None:
    turn = (list(METHODS).index(name) + list(MESSAGES).index(message)) % len(COUNTS)
    counts = COUNTS if request.config.getoption("--full") else COUNTS[turn : turn + 1]
    if name in ("NGM", "NSADDLe"):
        # every neighbor costs evaluations
        graph, steps = "ring", 2
    else:
        graph, steps = ("ring", "exponential", "star")[turn], 3
    check(partial(make, name, MESSAGES[message], topology=graph), seed, counts, steps)


@st.composite
def placements(draw: st.DrawFn) -> tuple[fs.Topology, tuple[int, ...]]:
    """A connected graph of any edges, and counts of agents of any number of ranks."""
    links = draw(st.lists(st.tuples(*(st.integers(0, AGENTS - 1),) * 2), max_size=12))
    tree = [(i, draw(st.integers(0, i - 1))) for i in range(1, AGENTS)]
    edges = {(min(edge), max(edge)) for edge in (*links, *tree) if edge[0] != edge[1]}
    cuts = sorted(draw(st.sets(st.integers(1, AGENTS - 1))))
    counts = [end - first for first, end in zip([0, *cuts], [*cuts, AGENTS], strict=True)]
    graph = networkx.Graph(sorted(edges))
    graph.add_nodes_from(range(AGENTS))
    return fs.topology.from_networkx(graph), tuple(counts)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(placed=placements(), message=st.sampled_from([*MESSAGES]), seed=st.integers(0, 2**31))
def test_any_graph_and_counts(
    placed: tuple[fs.Topology, tuple[int, ...]], message: str, seed: int
) -> None:
    graph, counts = placed
    for name in ("MomentumTracking", "NGM") if max(map(len, graph.neighbors)) < 5 else ("QGM",):
        check(partial(make, name, MESSAGES[message], topology=graph), seed, (counts,), 2)


@pytest.mark.parametrize("message", KEPT)
@pytest.mark.parametrize("often", [{"rounds": 2}, {"every": 3}, {"every": 2, "rounds": 3}], ids=str)
def test_several_gossips_and_local_steps(message: str, often: dict[str, int], seed: int) -> None:
    check(partial(gossip, KEPT[message], **often), seed, COUNTS[1:2], 6)


@pytest.mark.parametrize("order", [MIX_FIRST, "compress-then-mix"])
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_tensors_without_padding_are_encoded_where_they_are_sent_from(
    quantizer: fc.StochasticQuantizer, order: Any, seed: int
) -> None:
    """Of one group, of two of which one is padded, of several row buffers at once."""
    choco = fs.Choco(quantizer, order)
    for turn, name in enumerate(("QGM", "DSGDm", "QSADDLe", "MomentumTracking")):
        build = partial(make, name, choco, topology=("ring", "exponential")[turn % 2])
        for shapes in (WHOLE, (*WHOLE[:2], SHAPES[2]), (SHAPES[0], *WHOLE[1:])):
            check(build, seed, COUNTS[turn % 3 : turn % 3 + 1], 2, shapes)
    check(partial(gossip, choco, rounds=2), seed, COUNTS[2:], 2, WHOLE)
    check(partial(gossip, choco, every=2, state_dtype=torch.bfloat16), seed, COUNTS[2:], 3, WHOLE)


def test_what_is_sent_lies_where_it_was_encoded(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lying: list[bool] = []
    encoded = CompressedGossip._encoded
    monkeypatch.setattr(
        CompressedGossip,
        "_encoded",
        lambda *args: (told := encoded(*args), lying.append(told.lies_in_messages))[0],
    )
    for shapes, expected in ((WHOLE, {True}), (SHAPES, {False})):
        lying.clear()
        run_apart(partial(make, "QGM", MESSAGES["8 bits"]), start(seed, shapes), (3, 5), 1)
        assert {*lying} == expected


@pytest.mark.parametrize("order", [MIX_FIRST, "compress-then-mix"])
@pytest.mark.parametrize("name", ["DSGDm", "QGM"])
def test_an_exchange_that_fails_changes_nothing(name: str, order: Any, seed: int) -> None:
    """Neither on the rank whose message is refused, nor on those that have encoded theirs."""

    def work(transport: Any) -> tuple[bool, bool]:
        here = Placement((3, 1, 2, 2), transport)
        part = slice(here.first_agent, here.first_agent + here.agents)
        parameters = [nn.Parameter(model[part].clone()) for model in start(seed, WHOLE)]
        choco = fs.Choco(fc.StochasticQuantizer(8), order)
        optimizer = make(name, choco, parameters, placement=here)
        optimizer.step(closure_over(optimizer, parameters))
        buffers = [optimizer.rows.x, *optimizer.flat_state.values(), optimizer.squares]
        buffers += optimizer.live.heard.buffers.values()
        before = [rows.clone() for rows in buffers]
        if here.rank == 2:
            # finite gradients, models that are not
            optimizer.param_groups[0]["lr"] = 3e38

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = sum(100.0 * p.sum() for p in parameters)
            loss.backward()
            return loss

        has_failed = False
        try:
            optimizer.step(closure)
        except (PeerError, NonFiniteError):
            has_failed = True
        return has_failed, all(map(torch.equal, buffers, before))

    # rank 0 hears nobody of rank 2, and is told after this step
    assert run_in_threads(4, work, timeout=20)[1:] == [(True, True)] * 3


@pytest.mark.parametrize("order", [MIX_FIRST, "compress-then-mix"])
@pytest.mark.parametrize(("name", "bits"), [("QSADDLe", 8), ("DSGDm", 4)])
def test_copies_may_be_half_as_wide(name: str, bits: int, order: Any, seed: int) -> None:
    """Every holder rounds them by the owner's draws."""
    choco, half = fs.Choco(fc.StochasticQuantizer(bits), order), torch.bfloat16
    build = partial(make, name, choco, state_dtype=half, topology="exponential")
    check(build, seed, COUNTS[1:2], 3)
    for often in ({"rounds": 2}, {"every": 2}):
        check(partial(gossip, choco, state_dtype=half, **often), seed, COUNTS[2:], 3)


@pytest.mark.parametrize("options", [{"cross_gradients": "model"}, {"mixed_self_gradient": True}])
def test_cross_gradients_of_both_kinds(options: dict[str, Any], seed: int) -> None:
    for message in (MESSAGES["running sum"], MESSAGES["random-k"]):
        build = partial(make, "NSADDLe", message, topology="star", qg_momentum=0.8, **options)
        check(build, seed, COUNTS[1:2], 2)


@pytest.mark.parametrize("name", ["QSADDLe", "NGM"])
def test_agents_whose_gradient_is_not_finite_are_left_out(name: str, seed: int) -> None:
    """They send all the same, and cross-gradients that are not finite as zeros."""

    def work(transport: Any = None, counts: tuple[int, ...] = (AGENTS,)) -> Found:
        here = None if transport is None else Placement(counts, transport)
        first, agents = (0, AGENTS) if here is None else (here.first_agent, here.agents)
        parameters = [nn.Parameter(model[first : first + agents].clone()) for model in start(seed)]
        optimizer = make(name, MESSAGES["8 bits"], parameters, placement=here, nonfinite="skip")
        factor = torch.ones(agents)
        factor[torch.arange(first, first + agents) == 4] = torch.nan
        for step in range(4):

            def closure(step: int = step) -> torch.Tensor:
                optimizer.zero_grad()
                loss = torch.stack(
                    [
                        (p.flatten(1) if p.dim() > 1 else p[:, None]).square().sum(1)
                        for p in parameters
                    ]
                ).sum(0)
                (loss * factor if step == 1 else loss).sum().backward()
                return loss.detach()

            optimizer.step(closure)
        return found(optimizer, [])

    whole = work()
    assert bool(whole.x.isfinite().all())
    for counts in COUNTS[1:]:
        parts = run_in_threads(len(counts), partial(work, counts=counts), timeout=20)
        assert all(isinstance(part, Found) for part in parts), parts
        assert_equal(joined(parts), whole)  # type: ignore[arg-type]


def test_an_ordinary_module_is_an_agent(seed: int) -> None:
    models = start(seed)
    build = partial(make, "QGM", MESSAGES["4 bits"])
    whole = run(build, models, slice(0, AGENTS), 4)

    def work(transport: Any) -> torch.Tensor:
        a, b, c = (nn.Parameter(model[transport.rank].clone()) for model in models)
        groups = [{"params": [a, b]}, {"params": [c], "lr": 0.01}]
        optimizer = build(groups, placement=Placement((1,) * AGENTS, transport))

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            target = 0.3 * torch.tensor(float(transport.rank))
            loss = sum((p - target).cosh().log().sum() for p in (a, b, c))
            loss.backward()
            return loss

        for _ in range(4):
            optimizer.step(closure)
        assert optimizer.state[a]["x_hat"].shape == a.shape
        return torch.cat([p.detach().reshape(1, -1) for p in (a, b, c)], 1)

    assert torch.equal(torch.cat(run_in_threads(AGENTS, work, timeout=20)), whole.x)  # type: ignore[arg-type]


@pytest.mark.parametrize("message", KEPT)
@pytest.mark.parametrize("name", ["QSADDLe", "GradientTracking", "NGM"])
def test_saved_on_some_counts_goes_on_on_others(name: str, message: str, seed: int) -> None:
    build = partial(make, name, KEPT[message], topology="exponential" if name != "NGM" else "ring")
    whole = run(build, start(seed), slice(0, AGENTS), 5)
    half = run_apart(build, start(seed), (3, 5), 3)
    states = [spread(half, *span) for span in ((0, 2), (2, 3), (3, 6), (6, 8))]
    rest = joined(run_apart(build, models_of(half), (2, 1, 3, 2), 2, states))
    assert torch.equal(rest.x, whole.x)
    for state, rows in whole.states.items():
        assert torch.equal(rest.states[state], rows), state
    assert rest.nbytes + sum(part.nbytes for part in half) == whole.nbytes
    # and on one stack
    alone = run(build, models_of(half), slice(0, AGENTS), 2, spread(half, 0, AGENTS))
    assert torch.equal(alone.x, whole.x)


def moved(optimizer: Any, parameters: list[nn.Parameter]) -> Any:
    """Elsewhere in memory, as `.to()` moves them."""
    for p in parameters:
        p.data = p.data.clone()
    return optimizer


def frozen(optimizer: Any, parameters: list[nn.Parameter]) -> Any:
    """The first stands still for a step."""
    parameters[0].requires_grad_(False)
    optimizer.step(closure_over(optimizer, parameters))
    parameters[0].requires_grad_(True)
    return optimizer


def reordered(optimizer: Any, parameters: list[nn.Parameter]) -> Any:
    optimizer.param_groups[0]["params"].reverse()
    return optimizer


def reloaded(optimizer: Any, parameters: list[nn.Parameter]) -> Any:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return optimizer


def written(optimizer: Any, parameters: list[nn.Parameter]) -> Any:
    """In place, as a run's checkpoints are read."""
    kept = {name: rows.clone() for name, rows in optimizer.flat_state.items()}
    for rows in optimizer.live.heard.buffers.values():
        rows.fill_(7.0)
    for name, rows in kept.items():
        optimizer.flat_state[name].copy_(rows)
    optimizer.mark_loaded()
    return optimizer


def grown(optimizer: Any, parameters: list[nn.Parameter]) -> Any:
    new = nn.Parameter(0.5 * parameters[1].detach()[:, None].repeat(1, 6))
    optimizer.add_param_group({"params": [new]})
    parameters.append(new)
    return optimizer


def closure_over(optimizer: Any, parameters: list[nn.Parameter]) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum((p**2).sum() + (p**3).sum() * 0.01 for p in parameters)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("change", [moved, frozen, reordered, reloaded, written, grown])
def test_copies_follow_the_parameters(change: Callable[..., Any], seed: int) -> None:
    def work(transport: Any = None, counts: tuple[int, ...] = (AGENTS,)) -> Any:
        here = None if transport is None else Placement(counts, transport)
        first, agents = (0, AGENTS) if here is None else (here.first_agent, here.agents)
        models = [model[first : first + agents] for model in start(seed)]
        parameters = [nn.Parameter(model.clone()) for model in models]
        groups = [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.01}]
        optimizer = make("QSADDLe", MESSAGES["4 bits"], groups, placement=here)
        for _ in range(2):
            optimizer.step(closure_over(optimizer, parameters))
        optimizer = change(optimizer, parameters)
        for _ in range(2):
            optimizer.step(closure_over(optimizer, parameters))
        return found(optimizer, [])

    whole = work()
    for counts in COUNTS[1:]:
        parts = run_in_threads(len(counts), partial(work, counts=counts), timeout=20)
        assert all(not isinstance(part, BaseException) for part in parts), parts
        assert_equal(joined(parts), whole)  # type: ignore[arg-type]


def test_one_rank_may_move_its_parameters_alone(seed: int) -> None:
    """Only where states are loaded do ranks ask each other."""

    def work(transport: Any) -> Any:
        here = Placement((3, 5), transport)
        part = slice(here.first_agent, here.first_agent + here.agents)
        parameters = [nn.Parameter(model[part].clone()) for model in start(seed)]
        optimizer = make("QGM", MESSAGES["8 bits"], parameters, placement=here)
        for step in range(4):
            if step == 2 and here.rank == 1:
                moved(optimizer, parameters)
            optimizer.step(closure_over(optimizer, parameters))
        return torch.cat([p.detach().reshape(here.agents, -1) for p in parameters], 1)

    parameters = [nn.Parameter(model.clone()) for model in start(seed)]
    optimizer = make("QGM", MESSAGES["8 bits"], parameters)
    for _ in range(4):
        optimizer.step(closure_over(optimizer, parameters))
    whole = torch.cat([p.detach().reshape(AGENTS, -1) for p in parameters], 1)
    assert torch.equal(torch.cat(run_in_threads(2, work, timeout=20)), whole)  # type: ignore[arg-type]


@pytest.mark.parametrize("message", [m for m in MESSAGES if m != "identity"])
def test_the_wire_carries_the_payload_and_a_header(message: str, seed: int) -> None:
    """A ring of four ranks: each rank's border agents are heard by one rank each, a lone agent by two."""
    compressor = getattr(MESSAGES[message], "compressor", MESSAGES[message])
    groups = (SHAPES[:2], SHAPES[2:])
    each = [sum(compressor.wire_bytes(prod(shape)) for shape in group) for group in groups]
    if isinstance(compressor, fc.RandomK):
        each[0] -= 8
    steps, copies = 3, 2
    found = run_apart(partial(make, "QGM", MESSAGES[message]), start(seed), (3, 1, 2, 2), steps)
    for part in found:
        wire = steps * copies * sum(SIZE + nbytes for nbytes in each)
        assert part.optimizer.bytes_on_wire == wire
        assert part.nbytes == steps * 2 * len(part.x) * sum(each)
    if message not in KEPT:
        return
    # rows that a step sends together share a header, cross-gradients of all groups too
    tracked = run_apart(
        partial(make, "GradientTracking", MESSAGES[message]), start(seed), (3, 5), steps
    )
    for part in tracked:
        wire = steps * copies * sum(SIZE + 2 * nbytes for nbytes in each)
        assert part.optimizer.bytes_on_wire == wire
    cross = run_apart(partial(make, "NGM", MESSAGES[message]), start(seed), (3, 5), steps)
    for part in cross:
        edges = steps * copies * (SIZE + sum(each))
        assert part.optimizer.bytes_on_wire == steps * copies * sum(SIZE + n for n in each) + edges


def test_a_loaded_state_costs_its_rows_once(seed: int) -> None:
    build = partial(make, "QGM", MESSAGES["8 bits"])
    half = run_apart(build, start(seed), (3, 5), 2)
    states = [part.optimizer.state_dict() for part in half]
    rest = run_apart(build, models_of(half), (3, 5), 1, states)
    columns = sum(32 * -(-prod(shape) // 32) for shape in SHAPES)
    for before, after in zip(half, rest, strict=True):
        a_step = before.optimizer.bytes_on_wire // 2
        assert after.optimizer.bytes_on_wire == a_step + 2 * (SIZE + 4 * columns)
        assert after.nbytes == before.nbytes // 2


def test_states_hold_own_agents_alone(seed: int) -> None:
    for part in run_apart(partial(make, "QGM", MESSAGES["8 bits"]), start(seed), (3, 5), 2):
        optimizer, agents = part.optimizer, len(part.x)
        assert len(optimizer.flat_state["x_hat"]) == agents
        assert len(optimizer.live.heard.buffers["x_hat"]) == agents + 2
        for values in optimizer.state_dict()["state"].values():
            assert len(values["x_hat"]) == agents


def test_a_refused_row_ends_all_ranks(seed: int) -> None:
    def work(transport: Any) -> str:
        here = Placement((3, 1, 2, 2), transport)
        part = slice(here.first_agent, here.first_agent + here.agents)
        parameters = [nn.Parameter(model[part].clone()) for model in start(seed)]
        optimizer = make("DSGD", MESSAGES["8 bits"], parameters, placement=here)
        optimizer.step(closure_over(optimizer, parameters))
        if here.rank == 2:
            # finite gradients, models that are not
            optimizer.param_groups[0]["lr"] = 3e38

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = sum(100.0 * p.sum() for p in parameters)
            loss.backward()
            return loss

        with pytest.raises((PeerError, NonFiniteError)) as error:
            for _ in range(4):
                optimizer.step(closure)
        with pytest.raises((PeerError, NonFiniteError)):
            optimizer.step(closure)
        return f"{error.type.__name__} {error.value}"

    results = run_in_threads(4, work, timeout=20)
    assert all(isinstance(result, str) for result in results), results
    assert str(results[2]).startswith("NonFiniteError only finite values can be compressed")
    for result in (*results[:2], results[3]):
        assert "rank 2" in str(result) and "NonFiniteError: only finite" in str(result)
