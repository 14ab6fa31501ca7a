"""Every method that admits faults, against its float64 oracle with the repaired W of each round."""

import copy
import warnings
from functools import partial
from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.graphs import fault_log
from fastsaddle.graphs.faults import Faulty
from tests.comm.test_faults import by_hand
from tests.optimizers.agent_losses import DIM, RATE, STEPS, AgentLosses, advance, close, rows, train
from tests.optimizers.test_schedules import BACKENDS, CASES, OWN, Turning, Work, run

pytestmark = pytest.mark.usefixtures("one_thread")
GRAPHS = {
    "ring": fs.topology.ring(6),
    "base": fs.topology.base_graph(5, 2),
    "kite": fs.topology.torus(2, 3),
}
# D2 takes none; of GUT, and of several gossips in a step, agents must not be down
ADMIT = [name for name in CASES if name != "d2"]
LINKS_ALONE = "gut", "every"
PAIRS = [(name, graph) for name in ADMIT for graph in ("ring", "base")]
EIGHT = fs.compressors.StochasticQuantizer(8)


def faulty(graph: str, seed: int, loses_agents: bool = True) -> Faulty:
    agents: dict[str, Any] = {"agents": 0.15, "slow": {1: 3}} if loses_agents else {}
    return fs.Faults(links=0.3, seed=seed, **agents).over(GRAPHS[graph])


class Failing(Work):
    """One case with faults; its oracle leaves agents that are down as they are."""

    def __init__(self, name: str, graph: str, seed: int) -> None:
        self.case, self.world = CASES[name], AgentLosses(GRAPHS[graph].agents, seed)
        self.schedule: Faulty = faulty(graph, seed, name not in LINKS_ALONE)
        self.matrices = lambda t: by_hand(GRAPHS[graph], self.schedule, t)

    def oracle(self) -> Any:
        return Leaving(super().oracle(), self.schedule)


class Leaving:
    """An oracle that puts the rows of agents that were down back after each step."""

    def __init__(self, made: Any, schedule: Faulty) -> None:
        self.made, self.schedule, self.steps = made, schedule, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.made, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "eta":
            self.made.eta = value
        else:
            super().__setattr__(name, value)

    def step(self) -> None:
        inner = getattr(self.made, "made", self.made)
        copies = [value for value in vars(inner).values() if isinstance(value, Turning)]
        all_kept = [vars(inner), *map(vars, copies)]
        before = [copy.deepcopy(self._rows(kept)) for kept in all_kept]
        self.made.step()
        down = self.schedule.down(self.steps)[:, None]
        self.steps += 1
        for kept, then in zip(all_kept, before, strict=True):
            for name, now in self._rows(kept).items():
                # what there was not yet was zero
                kept[name] = torch.where(down, then.get(name, torch.zeros_like(now)), now)

    def _rows(self, kept: dict[str, Any]) -> dict[str, torch.Tensor]:
        """What is kept of each agent, a row each."""
        shape = self.schedule.agents, DIM
        return {n: v for n, v in kept.items() if isinstance(v, torch.Tensor) and v.shape == shape}


@pytest.mark.parametrize(("name", "graph"), PAIRS)
def test_twenty_steps_with_a_drop(name: str, graph: str, seed: int) -> None:
    for attempt in range(30):
        work = Failing(name, graph, seed + attempt)
        oracle, rounded = work.oracle(), work.oracle()
        advance(oracle, work.world)
        if name == "adam":
            # near a gradient of zero float32 cannot follow float64
            advance(rounded, work.world, torch.Generator().manual_seed(seed))
            if (oracle.x - rounded.x).abs().max() > 2e-6:
                continue
        for backend in BACKENDS:
            optimizer, parameters = work.made(backend)
            train(optimizer, work.world, parameters)
            close(rows(parameters), oracle.x)
        return
    raise AssertionError("thirty problems in a row are ill-conditioned")


def held(optimizer: Any) -> list[torch.Tensor]:
    """All that is kept of each agent, an agent a row."""
    wide = [t for t in optimizer.flat_state.values() if len(t) == optimizer.agents]
    return [optimizer.rows.x, *wide, *(t.T for t in optimizer.scalar_state.values())]


def composed(rule: fs.rules.Rule, **options: Any) -> Any:
    return lambda p, topology: fs.Optimizer(
        p, lr=RATE, rule=rule, communicator=fs.comm.Gossip(topology, **options)
    )


TOP = fs.compressors.TopK(0.3)
MORE: dict[str, Any] = {
    "bfloat16": partial(fs.QGM, compressor=EIGHT, consensus_step=0.5, state_dtype=torch.bfloat16),
    "gt, top-k": partial(fs.GradientTracking, compressor=TOP, consensus_step=0.2),
    "looksam": partial(fs.QSADDLe, sam=fs.LookSAM(3)),
    "every third": composed(fs.rules.Momentum("quasi-global"), every=3),
    "adamw": composed(fs.rules.Torch(torch.optim.AdamW)),
    "adaptive": partial(fs.QGM, compressor=fs.Choco(OWN, adaptive=True), consensus_step=0.5),
}


@pytest.mark.parametrize("name", [*(n for n in ADMIT if n not in LINKS_ALONE), *MORE])
def test_who_is_down_stays_as_it_is(name: str, seed: int) -> None:
    if name in MORE:
        world, schedule = AgentLosses(6, seed), faulty("kite", seed)
        parameters = world.parameters()
        optimizer = MORE[name](parameters, topology=schedule)
    else:
        work = Failing(name, "kite", seed)
        world, schedule = work.world, work.schedule
        optimizer, parameters = work.made("native")
    seen = torch.zeros(6, dtype=torch.bool)
    # as many rounds for all: few of them may see hardly anybody fall
    every = 3 if name == "every third" else 1
    for number in range(STEPS * every):
        # data of a round, again and again
        world.now = number // every
        before = [t.clone() for t in held(optimizer)]
        down = schedule.down(world.now)
        optimizer.step(world.closure(optimizer, parameters))
        for one, other in zip(held(optimizer), before, strict=True):
            assert torch.equal(one[down], other[down])
        assert not any(
            torch.equal(a, b)
            for a, b in zip(optimizer.rows.x[~down], before[0][~down], strict=True)
        )
        seen |= down
    assert seen.sum() > 2


MIXING: dict[str, Any] = {
    "dsgd": fs.DSGD,
    "gt": fs.GradientTracking,
    "ngm": fs.NGM,
    "dsgd, choco": partial(fs.DSGD, compressor=EIGHT, consensus_step=0.8),
    "mt, choco": partial(fs.MomentumTracking, compressor=TOP, consensus_step=0.2),
}


@pytest.mark.parametrize("name", MIXING)
def test_the_mean_is_kept(name: str, seed: int) -> None:
    """Gossip with a third of the links down, and agents, moves no mean: gradients are zero, models far apart."""
    world, schedule = AgentLosses(6, seed), faulty("ring", seed)
    parameters = world.parameters()
    optimizer = MIXING[name](parameters, lr=RATE, topology=schedule)
    start = rows(parameters)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        return torch.zeros(())

    for _ in range(100):
        optimizer.step(closure)
    after = rows(parameters)
    assert (after.mean(0) - start.mean(0)).abs().max() < 2e-6
    assert after.std(0).max() < 0.5 * start.std(0).max()


def test_sums_that_are_tracked_stay_sums(seed: int) -> None:
    world, schedule = AgentLosses(6, seed), faulty("kite", seed)
    parameters = world.parameters()
    gt = fs.GradientTracking(parameters, lr=RATE, topology=schedule)
    other = world.parameters()
    mt = fs.MomentumTracking(other, lr=RATE, topology=schedule)
    for world.now in range(STEPS):
        gt.step(world.closure(gt, parameters))
        mt.step(world.closure(mt, other))
    tracked, gradient = (gt.flat_state[name].double().sum(0) for name in ("tracked", "gradient"))
    torch.testing.assert_close(tracked, gradient, rtol=0, atol=1e-5)
    assert mt.flat_state["correction"].double().sum(0).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["qsaddle", "gt", "ngm", "every", "choco", "gt, choco", "adam"])
def test_resumed_and_replayed(name: str, seed: int) -> None:
    work = Failing(name, "base", seed)
    whole, parameters = work.made("native")
    run(work, whole, parameters, range(11))
    first, begun = work.made("native")
    run(work, first, begun, range(4))
    after, resumed = work.made("native")
    with torch.no_grad():
        for p, q in zip(resumed, begun, strict=True):
            p.copy_(q)
    after.load_state_dict(first.state_dict())
    run(work, after, resumed, range(4, 11))
    assert all(torch.equal(p, q) for p, q in zip(parameters, resumed, strict=True))
    # what a log says, in place of draws
    records = work.schedule.records(range(22))
    log = [{"round": t, **fallen._asdict()} for t, fallen in records.items()]
    work.schedule = fs.Faults(log=log).over(work.schedule.schedule)
    again, replayed = work.made("native")
    run(work, again, replayed, range(11))
    assert all(torch.equal(p, q) for p, q in zip(parameters, replayed, strict=True))
    assert again.bytes_sent == whole.bytes_sent
    assert fault_log.text(records)


@pytest.mark.parametrize("compressor", [EIGHT, fs.compressors.TopK(0.2)])
@pytest.mark.parametrize("order", ["compress-then-mix", "mix-then-compress"])
def test_bytes_of_links_that_come_back(compressor: Any, order: Any, seed: int) -> None:
    """Counted link by link: nothing while it is down, the public copy whole when it is back, else the message."""
    world, schedule = AgentLosses(6, seed), faulty("kite", seed)
    parameters = world.parameters()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = fs.GradientTracking(
            parameters,
            lr=RATE,
            topology=schedule,
            compressor=fs.Choco(compressor, order),
            consensus_step=0.3,
        )
    message = compressor.message_bytes(optimizer.layouts[0])
    expected, was_up = 0, dict.fromkeys(map(tuple, schedule.links.tolist()), True)
    for t in range(STEPS):
        run_one(world, optimizer, parameters, t)
        found = schedule.happened(range(t, t + 1))
        for (i, j), fell in zip(was_up.copy(), found.links[0], strict=True):
            up = not (fell or found.agents[0, i] or found.agents[0, j])
            if up:
                # both ways, of both rows that are sent
                expected += 4 * (message if was_up[i, j] else 4 * DIM)
            was_up[i, j] = up
        assert optimizer.bytes_sent == expected


def run_one(world: AgentLosses, optimizer: Any, parameters: list[torch.Tensor], step: int) -> None:
    world.now = step
    optimizer.step(world.closure(optimizer, parameters))


def test_without_faults_the_bits_are_those_of_the_graph(seed: int) -> None:
    world, found = AgentLosses(6, seed), []
    for graph in (GRAPHS["ring"], fs.Faults().over(GRAPHS["ring"])):
        parameters = world.parameters()
        optimizer = fs.QSADDLe(parameters, lr=RATE, topology=graph, compressor=EIGHT)
        train(optimizer, world, parameters)
        found.append((rows(parameters), optimizer.bytes_sent))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


def test_a_step_that_raises_leaves_all_as_it_was(seed: int) -> None:
    """Also the counter of rounds, so that the same agents are down when it is done again."""
    world, schedule = AgentLosses(6, seed), faulty("kite", seed)
    parameters = world.parameters()
    optimizer = fs.QGM(parameters, lr=RATE, topology=schedule, compressor=fs.compressors.TopK(0.3))
    for step in range(6):
        before = [t.clone() for t in held(optimizer)]
        world.now = step

        def fails() -> torch.Tensor:
            loss = world.closure(optimizer, parameters)()
            parameters[0].grad[0, 0, 0] = torch.nan  # type: ignore[index]
            return loss

        with pytest.raises(fs.NonFiniteGradientError):
            optimizer.step(fails)
        assert all(torch.equal(a, b) for a, b in zip(held(optimizer), before, strict=True))
        optimizer.step(world.closure(optimizer, parameters))
        down = schedule.down(step)
        assert torch.equal(optimizer.rows.x[down], before[0][down])


def test_refused_by_name() -> None:
    both, links = faulty("ring", 0), faulty("ring", 0, loses_agents=False)
    chain = fs.Faults(links=0.1).over(fs.topology.chain(6))
    directed = fs.Faults(links=0.1).over(fs.topology.one_peer_exponential(6))

    def refusal(make: Any, **options: Any) -> str:
        with pytest.raises(ValueError) as caught:
            make([torch.nn.Parameter(torch.randn(6, 3))], **options)
        return str(caught.value)

    assert refusal(fs.RelaySGD, topology=chain).startswith(
        "RelaySGD needs a tree that stays, got Schedule(chain with"
    )
    for schedule in (both, links):
        said = refusal(fs.D2, topology=schedule, consensus_step=0.5)
        assert said.startswith("D2 needs ") and "it takes no faults" in said
    said = refusal(fs.GUT, topology=both)
    assert said.startswith("GUT compares ") and "faults of links alone" in said
    fs.GUT([torch.nn.Parameter(torch.randn(6, 3))], topology=links)
    said = refusal(fs.Optimizer, communicator=fs.comm.Gossip(both, rounds=2))
    assert "Gossip(rounds=2)" in said and "faults of links alone" in said
    for method in (fs.DSGD, fs.QSADDLe, fs.GradientTracking, fs.NGM):
        said = refusal(method, topology=directed)
        assert (
            said.startswith(f"{method.__name__} needs a doubly stochastic") and "push-sum" in said
        )
    said = refusal(fs.NGM, topology=links, compressor=EIGHT)
    assert "needs a graph that stays, got Schedule(ring with faults" in said
    assert "take running_sum=False" in refusal(
        fs.DSGD, topology=links, compressor=fs.Choco(EIGHT, running_sum=True)
    )
