"""Faults against definitions written here: what W becomes, what is drawn, what a log holds."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastsaddle as fs
from fastsaddle.graphs import fault_log
from fastsaddle.graphs.faults import Faulty
from fastsaddle.graphs.schedule import kind_of, most_neighbors

SEEDS = st.integers(0, 2**63 - 1)
CHANCES = st.floats(0, 0.9)


@st.composite
def graphs(draw: st.DrawFn) -> fs.Schedule:
    """Symmetric ones: random trees with further edges by Metropolis-Hastings, some with weights, and drawn ones."""
    n = draw(st.integers(2, 12))
    if draw(st.booleans()):
        return fs.topology.matchings(n, draw(SEEDS))
    graph = nx.Graph([(i, draw(st.integers(0, i - 1))) for i in range(1, n)])
    further = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda e: e[0] != e[1])
    graph.add_edges_from(draw(st.lists(further, max_size=8)))
    made = fs.topology.from_networkx(graph)
    if draw(st.booleans()):
        return made
    lazy = (made.W + torch.eye(n, dtype=torch.float64)) / 2
    return fs.topology.sequence([made, fs.topology.from_matrix(lazy)])


def by_hand(schedule: fs.Schedule, faulty: Faulty, t: int) -> torch.Tensor:
    """W of a round with the weights of what fell moved one by one."""
    W = schedule.at(t).W.clone()
    found = faulty.happened(range(t, t + 1))
    fallen = {
        tuple(p) for p, fell in zip(faulty.links.tolist(), found.links[0], strict=True) if fell
    }
    down = set(found.agents[0].nonzero()[:, 0].tolist())
    for i in range(len(W)):
        for j in range(i):
            if (j, i) in fallen or i in down or j in down:
                for one, other in ((i, j), (j, i)):
                    W[one, one] += W[one, other]
                    W[one, other] = 0
    return W


@settings(deadline=None, max_examples=60)
@given(graphs(), CHANCES, CHANCES, SEEDS, st.integers(0, 2**40), st.data())
def test_repaired(
    schedule: fs.Schedule, links: float, agents: float, seed: int, t: int, data: st.DataObject
) -> None:
    n = schedule.agents
    slow = data.draw(st.dictionaries(st.integers(0, n - 1), st.integers(1, 5), max_size=3))
    faulty = fs.Faults(links=links, agents=agents, slow=slow, seed=seed).over(schedule)
    graph = faulty.at(t)
    W = graph.W
    assert torch.equal(W, W.T) and (W >= 0).all()
    assert (W.sum(1) - 1).abs().max() < 1e-12 and graph.kind == kind_of(faulty)
    torch.testing.assert_close(W, by_hand(schedule, faulty, t), rtol=0, atol=1e-14)
    down = faulty.down(t)
    assert torch.equal(W[down], torch.eye(n, dtype=torch.float64)[down])
    assert all(down[agent] for agent, each in slow.items() if t % each)
    # the same whatever was asked for before, and a graph is as it was
    again = fs.Faults(links=links, agents=agents, slow=slow, seed=seed).over(schedule)
    for other in data.draw(st.lists(st.integers(max(0, t - 200), t + 200), max_size=4)):
        again.at(other)
    assert torch.equal(again.at(t).W, W) and torch.equal(again.down(t), down)
    assert max(map(len, graph.neighbors)) <= most_neighbors(faulty)
    assert not ((W > 0) & ~(faulty.union.W > 0)).fill_diagonal_(False).any()
    # rows of the lists that kernels take sum to one exactly, and whoever is down hears itself alone
    _, weights = graph.mixing_lists()
    assert (weights.double().sum(1) == 1).all() and (weights[down, 0] == 1).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 12), CHANCES, CHANCES, SEEDS, st.integers(0, 2**40))
def test_directed_graphs_divide_among_who_is_left(
    n: int, links: float, agents: float, seed: int, t: int
) -> None:
    schedule = fs.topology.one_peer_exponential(n)
    faulty = fs.Faults(links=links, agents=agents, seed=seed).over(schedule)
    W, before = faulty.at(t).W, schedule.at(t).W
    found = faulty.happened(range(t, t + 1))
    fallen = [p for p, fell in zip(faulty.links.tolist(), found.links[0], strict=True) if fell]
    expected = before.clone()
    for sender, hears in fallen:
        expected[hears, sender] = 0
    for agent in found.agents[0].nonzero()[:, 0].tolist():
        expected[agent] = expected[:, agent] = 0
        expected[agent, agent] = 1
    expected = expected / expected.sum(0)
    torch.testing.assert_close(W, expected, rtol=0, atol=1e-15)
    assert kind_of(faulty) == "column-stochastic"


def test_nothing_fails() -> None:
    ring = fs.topology.ring(7)
    faulty = fs.Faults().over(ring)
    assert not faulty.loses_agents
    for t in (0, 1, 63, 64, 10**12):
        assert torch.equal(faulty.at(t).W, ring.W) and not faulty.down(t).any()


def test_frequencies() -> None:
    links, agents, rounds = 0.3, 0.1, 6000
    faulty = fs.Faults(links=links, agents=agents, slow={2: 3}, seed=5).over(
        fs.topology.torus(3, 4)
    )
    found = faulty.happened(range(rounds))
    fell, down = found.links.double(), found.agents.double()
    others = [i for i in range(12) if i != 2]
    # five standard deviations
    for mean, chance in ((fell.mean(0), links), (down.mean(0)[others], agents)):
        assert (mean - chance).abs().max() < 5 * math.sqrt(chance * (1 - chance) / rounds)
    assert abs(down[:, 2].mean() - (1 - 0.9 / 3)) < 0.03
    assert not found.agents[::3, 2].all() and found.agents[1::3, 2].all()
    # links say nothing of each other, of agents, or of the next round
    for one, other in (
        (fell[:, 0], fell[:, 1]),
        (fell[1:, 3], fell[:-1, 3]),
        (fell[:, 0], down[:, 0]),
    ):
        assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.06
    mean = sum(faulty.at(t).W for t in range(1000)) / 1000
    torch.testing.assert_close(mean, faulty.union.W, rtol=0, atol=0.05)
    assert not torch.equal(
        fs.Faults(links=0.3, seed=6).over(faulty.schedule).happened(range(50)).links,
        found.links[:50],
    )
    one, other = faulty.shares(range(100, 900))
    assert one == float(fell[100:900].mean()) and other == float(down[100:900].mean())
    assert all(map(math.isnan, faulty.shares(range(0))))


def test_a_link_is_drawn_by_its_two_agents_alone() -> None:
    """The same pair falls in the same rounds in whatever graph of whatever size it is."""
    small, large = (
        fs.Faults(links=0.4, agents=0.2, seed=3).over(g)
        for g in (fs.topology.ring(5), fs.topology.ring(9))
    )
    both = [x.links.tolist().index([1, 2]) for x in (small, large)]
    one, other = (x.happened(range(700)) for x in (small, large))
    assert torch.equal(one.links[:, both[0]], other.links[:, both[1]])
    assert torch.equal(one.agents, other.agents[:, :5])


def test_slow_agents_meet_where_both_take_part() -> None:
    faulty = fs.Faults(slow={0: 2, 1: 3}).over(fs.topology.fully_connected(3))
    met = [t for t in range(24) if faulty.at(t).W[0, 1] > 0]
    assert met == [0, 6, 12, 18]
    assert faulty.union.W[0, 1] == pytest.approx(1 / 18)


@settings(deadline=None, max_examples=25)
@given(graphs(), CHANCES, CHANCES, SEEDS, st.integers(0, 1000), st.integers(1, 60))
def test_a_log_happens_again(
    tmp_path_factory: pytest.TempPathFactory,
    schedule: fs.Schedule,
    links: float,
    agents: float,
    seed: int,
    first: int,
    count: int,
) -> None:
    rounds = range(first, first + count)
    faulty = fs.Faults(links=links, agents=agents, seed=seed).over(schedule)
    records = faulty.records(rounds)
    assert list(records) == list(rounds)
    path = tmp_path_factory.mktemp("log") / "faults.jsonl"
    path.write_text(fault_log.text(records))
    lists = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(set(record) == {"round", "links", "agents"} for record in lists)
    for log in (path, str(path), lists):
        again = fs.Faults(log=log).over(schedule)
        for t in rounds:
            assert torch.equal(again.at(t).W, faulty.at(t).W)
            assert torch.equal(again.down(t), faulty.down(t))
            if t > first:
                assert again.deliveries(t) == faulty.deliveries(t)
        # nothing is known of other rounds
        assert torch.equal(again.at(rounds.stop).W, schedule.at(rounds.stop).W)
        assert fault_log.text(again.records(rounds)) == path.read_text()


def test_a_torn_line_is_left_out_and_a_damaged_one_named(tmp_path: Path) -> None:
    path = tmp_path / "faults.jsonl"
    whole = fault_log.text(fs.Faults(links=0.5).over(fs.topology.ring(5)).records(range(6)))
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:-9])
    assert sorted(fault_log.read(path)) == sorted(json.loads(line)["round"] for line in lines[:3])
    path.write_text(lines[0] + lines[1][:-9] + "\n" + lines[2])
    with pytest.raises(ValueError, match=r"faults.jsonl: line 2: "):
        fault_log.read(path)
    path.write_text("")
    assert fault_log.read(path) == {}


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ([{"links": [[0, 1]]}], r"log\[0\]: round must be a whole number >= 0, got None"),
        ([{"round": -1}], r"log\[0\]: round must be"),
        ([{"round": 1}, {"round": 1}], r"log\[1\]: round 1 comes twice"),
        ([{"round": 1, "links": [[0, 1, 2]]}], "links must be pairs of agents"),
        ([{"round": 1, "links": "01"}], "links must be a list"),
        ([{"round": 1, "agents": [0.5]}], "agents must be whole numbers"),
        ([[0, 1]], r"log\[0\] must be such as"),
        (
            [{"round": 4, "links": [[0, 2]]}],
            r"round 4 of the log names the link \[0, 2\], which Topology\(ring",
        ),
        ([{"round": 4, "links": [[1, 0]]}], r"names the link \[1, 0\]"),
        ([{"round": 4, "agents": [5]}], r"faults name agent 5, Topology\(ring.* has 5"),
    ],
)
def test_refused_logs(log: Sequence[object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fs.Faults(log=log).over(fs.topology.ring(5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"links": 1.0}, r"links must be a probability in \[0, 1\), got 1.0"),
        ({"links": math.nan}, "links must be a probability"),
        ({"agents": -0.1}, "agents must be a probability"),
        ({"agents": True}, "agents must be a probability"),
        ({"slow": {1: 0}}, "slow must be agents by number"),
        ({"slow": {-1: 2}}, "slow must be agents by number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 2**63}, "seed must be a whole number"),
        ({"links": 0.1, "log": []}, "log takes the place of links, agents and slow"),
    ],
)
def test_refused_numbers(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fs.Faults(**options)  # type: ignore[arg-type]


def test_refused_graphs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="faults name agent 5"):
        fs.Faults(slow={5: 2}).over(fs.topology.ring(5))
    with pytest.raises(ValueError, match=r"faults are over an fs.Topology .* got 'ring'"):
        fs.Faults(links=0.1).over("ring")  # type: ignore[arg-type]
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.7, 0.0, 0.3]], dtype=torch.float64)
    failing = fs.Faults(agents=0.1).over(fs.topology.ring(4))
    with pytest.raises(
        ValueError, match=r"one fs\.Faults says all that fails, .* has such already"
    ):
        fs.Faults(links=0.1).over(failing)
    with pytest.raises(ValueError, match=r"columns sum to one, that of .* is row-stochastic"):
        fs.Faults(links=0.1).over(fs.Topology("rows", rows))
    with pytest.raises(FileNotFoundError):
        fs.Faults(log=tmp_path / "none.jsonl").over(fs.topology.ring(5))
