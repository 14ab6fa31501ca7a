"""Graphs of the user's own: files of edges, mixing matrices and functions."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.graphs import edge_list
from fastsaddle.sim import choices, methods
from fastsaddle.sim.comparison import grid_source
from fastsaddle.sim.report import page
from fastsaddle.sim.run import suited_methods, topologies

SHORT = ("--agents", "4", "--steps", "4", "--checkpoint-every", "2", "--batch-size", "8")
PATH = "0 1\n1 2\n2 3\n"
GRAPHS = """
import networkx as nx
import numpy as np
import torch
import fastsaddle as fs

def topology(agents):
    return fs.topology.star(agents)

def graph(agents, seed, degree: int = 2):
    return nx.connected_watts_strogatz_graph(agents, degree, 0.5, seed=seed)

graph.label = "small world"

def digraph(agents):
    return nx.cycle_graph(agents, create_using=nx.DiGraph)

def matrix(agents):
    return np.full((agents, agents), 1 / agents)

def tensor(agents):
    return torch.full((agents, agents), 1 / agents, requires_grad=True)

def lists(agents):
    return [[1 / agents] * agents] * agents

def turning(agents):
    pairs = [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]]
    pair = fs.topology.from_matrix(pairs, allow_disconnected=True)
    return fs.topology.sequence([fs.topology.ring(agents), pair, pair])

def needs(agents, degree): ...
def five(agents): return fs.topology.ring(5)
def parts(agents): return nx.empty_graph(agents)
def directed(agents): return nx.DiGraph([(0, 1)])
def nothing(agents): return None
def words(agents): return "ring"
def imaginary(agents): return np.eye(agents) * 1j
def imaginary_tensor(agents): return torch.eye(agents) * 1j
def ragged(agents): return [[1.0], [0.5, 0.5]]
def rows(agents): return np.eye(agents) * 2
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edges.txt").write_text(PATH)
    (tmp_path / "graphs.py").write_text(GRAPHS)
    np.save(tmp_path / "matrix.npy", fs.topology.ring(4).W.numpy())
    return tmp_path


def test_edges_without_weights(here: Path) -> None:
    (here / "more.txt").write_text("# a path\n\n  0\t1 \n 1 2# two\n3 2\n\n")
    for name in ("edges.txt", "more.txt"):
        graph = edge_list.read(here / name, 4)
        assert graph.name == name and torch.equal(graph.W, fs.topology.chain(4).W)
    (here / "none.txt").write_text("# nobody to talk to\n")
    assert torch.equal(edge_list.read(here / "none.txt", 1).W, torch.ones(1, 1).double())


def test_edges_with_weights(here: Path) -> None:
    (here / "edges.txt").write_text("0 1 0.5\n1 2 5e-1\n0 3 .25\n")
    wanted = [[0.25, 0.5, 0, 0.25], [0.5, 0, 0.5, 0], [0, 0.5, 0.5, 0], [0.25, 0, 0, 0.75]]
    graph = edge_list.read(here / "edges.txt", 4)
    assert torch.equal(graph.W, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("0 1\n1\n", "line 2: an edge is two agents and an optional weight, got '1'"),
        ("0 1 0.1 0.2\n", "line 1: an edge is two agents and an optional weight"),
        ("a b\n", "line 1: agents must be whole numbers, got 'a b'"),
        ("0 1.0\n", "line 1: agents must be whole numbers"),
        ("# from 1\n1 2\n4 1\n", "line 3: agents must be in 0 to 3, got '4 1'"),
        ("0 -1\n", "line 1: agents must be in 0 to 3, got '0 -1'"),
        ("0 1\n2 2\n", "line 2: an edge must join two different agents, got '2 2'"),
        ("0 1\n1 2\n1 0\n", "line 3: an edge must be there once, this one is in line 1"),
        ("0 1 0.1\n0 1 0.1\n", "line 2: an edge must be there once, this one is in line 1"),
        ("0 1 0.1\n\n1 2\n", "line 3: all edges must have a weight or none, .* no weight.* line 1"),
        ("0 1\n1 2 0.5\n", "line 2: all edges must have a weight or none, .* a weight.* line 1"),
        ("0 1 heavy\n", "line 1: a weight must be a number, got '0 1 heavy'"),
        ("0 1 0\n", "line 1: a weight must be finite and > 0, got '0 1 0'"),
        ("0 1 -0.5\n", "line 1: a weight must be finite and > 0"),
        ("0 1 nan\n", "line 1: a weight must be finite and > 0"),
        ("0 1 inf\n", "line 1: a weight must be finite and > 0"),
        (
            "0 1 0.6\n1 2 0.3\n2 3 0.6\n1 3 0.2\n",
            r"line 4: the weights .* not exceed 1 together, got 1\.1 at agent 1",
        ),
        (
            "0 1\n2 3\n",
            r"edges.txt: a topology must be connected, .* 2 are not .* first .* agent 2",
        ),
        ("", "of 4 agents 3 are not reached from agent 0, the first of them agent 1"),
    ],
)
def test_wrong_edges_are_refused(lines: str, said: str, here: Path) -> None:
    (here / "edges.txt").write_text(lines)
    with pytest.raises(ValueError, match=f"edges.txt.*{said.removeprefix('edges.txt')}"):
        topologies.find("edges.txt", 4, 0)


def test_files_that_are_none(here: Path) -> None:
    (here / "bytes.txt").write_bytes(b"\xff\xfe0 1")
    with pytest.raises(ValueError, match=r"bytes.txt must be a text file"):
        topologies.find("bytes.txt", 4, 0)
    for name in ("nowhere.txt", "nowhere.npy", "nowhere.py:graph"):
        with pytest.raises(FileNotFoundError, match=re.escape(f"{here}/{name[:9]}")):
            topologies.find(name, 4, 0)
    (here / "text.npy").write_text(PATH)
    np.save(here / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (here / "empty.npy").write_bytes(b"")
    for name in ("text.npy", "objects.npy", "empty.npy"):
        with pytest.raises(ValueError, match=f"{name} must hold a matrix as numpy.save writes it"):
            topologies.find(name, 4, 0)


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (np.full(4, 0.25), r"W must be square with at least one row, got shape \[4\]"),
        (np.eye(4), "connected, but W has 4 parts"),
        (np.ones((4, 4)), "W must be row-stochastic or column-stochastic, got row 0 with sum 4"),
        (np.array([[0.9, 0.1], [0.5, 0.4]]), "or column-stochastic, got row 1 with sum 0.9"),
        (np.full((3, 3), 1 / 3), "has 3 agents, but --agents is 4"),
        (np.eye(4) * 1j, "a matrix of real numbers, got ndarray of complex128"),
        (np.full((4, 4), "a"), "a matrix of real numbers, got ndarray of <U1"),
    ],
)
def test_wrong_matrices_are_refused(matrix: np.ndarray, said: str, here: Path) -> None:
    np.save(here / "wrong.npy", matrix)
    with pytest.raises(ValueError, match=f"wrong.npy.*{said}"):
        topologies.find("wrong.npy", 4, 0)


def test_what_a_function_may_return(here: Path) -> None:
    whole = torch.full((4, 4), 0.25, dtype=torch.float64)
    for name in ("matrix", "tensor", "lists"):
        assert torch.equal(topologies.find(f"graphs.py:{name}", 4, 0).W, whole)
    star = topologies.find("graphs.py:topology", 4, 0)
    assert star.name == "star" and torch.equal(star.W, fs.topology.star(4).W)
    assert torch.equal(topologies.find("matrix.npy", 4, 0).W, fs.topology.ring(4).W)
    ring = topologies.find("graphs.py:digraph", 4, 0)
    assert ring.name == "graphs.py:digraph" and torch.equal(ring.W, fs.topology.directed_ring(4).W)
    drawn = nx.connected_watts_strogatz_graph(9, 4, 0.5, seed=7)
    found = topologies.find("graphs.py:graph:4", 9, 7)
    assert torch.equal(found.W, fs.topology.from_networkx(drawn).W)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("needs", "graphs.py:needs needs a value for degree"),
        ("graph:2:3", "graphs.py:graph:2:3 has too many arguments"),
        ("five", "--topology graphs.py:five has 5 agents, but --agents is 4"),
        ("parts", "--topology graphs.py:parts: a topology must be connected"),
        ("directed", "--topology graphs.py:directed: a topology must be connected, .* 2 parts"),
        ("nothing", "--topology graphs.py:nothing must give .*, got NoneType of object"),
        (
            "words",
            "must give a Topology, a Schedule, a networkx graph or a matrix of real numbers, got str",
        ),
        ("imaginary", "of real numbers, got ndarray of complex128"),
        ("imaginary_tensor", "of real numbers, got Tensor of torch.complex64"),
        ("ragged", "a matrix of real numbers: .*inhomogeneous"),
        (
            "rows",
            "--topology graphs.py:rows: W must be row-stochastic or column-stochastic, got row 0 with sum 2",
        ),
        ("absent", "graphs.py has no callable 'absent'"),
    ],
)
def test_wrong_functions_are_refused(name: str, said: str, here: Path) -> None:
    with pytest.raises(ValueError, match=said):
        topologies.find(f"graphs.py:{name}", 4, 0)


def test_a_text_that_is_nothing() -> None:
    with pytest.raises(ValueError, match=r"--topology must be one of ring, .*or your own as edges"):
        topologies.find("moebius", 4, 0)


@pytest.mark.parametrize("command", ["train", "compare"])
def test_nothing_is_written_for_a_wrong_graph(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--topology", "edges.txt", "--agents", "5", "--out", "run")
    assert main([command, "--algorithm", "dsgd", *options]) == 2
    assert "of 5 agents 1 are not reached" in capsys.readouterr().err
    assert not (here / "run").exists()


def test_every_seed_of_a_grid_is_tried(here: Path) -> None:
    (here / "picky.py").write_text(
        "import fastsaddle as fs\n"
        "def picky(agents, seed):\n"
        "    if seed == 2:\n"
        "        raise ValueError('seed 2')\n"
        "    return fs.topology.ring(agents)\n"
    )
    options = ["--algorithm", "dsgd", "--topology", "picky.py:picky", "--seed", "0", "1"]
    assert len(grid_source.build(None, options).cells()) == 2
    with pytest.raises(ValueError, match="seed 2"):
        grid_source.build(None, [*options, "2"])


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("edges.txt", "edges.txt"),
        ("matrix.npy", "matrix.npy"),
        ("graphs.py:graph:2", "small world:2"),
        ("graphs.py:turning", "turning"),
    ],
)
def test_a_run_goes_on_and_is_shown_from_elsewhere(
    text: str, label: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SHORT, "--topology", text]) == 0
    said = capsys.readouterr().out
    how = "consensus rate" if label == "turning" else "spectral gap"
    assert f"4 agents, {label} ({how}" in said and str(here) not in said
    (run,) = (here / "runs").iterdir()
    assert json.loads((run / "config.json").read_text())["topology"] == str(here / text)
    last = run / "checkpoint-4.safetensors"
    expected = last.read_bytes()
    last.unlink()
    command = [sys.executable, "-m", "fastsaddle", "train", "--resume", str(run)]
    root = Path(fs.__file__).parents[1]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    assert last.read_bytes() == expected
    written = page.write([run], here / "page.html", surface=False).read_text()
    assert str(here) not in written and f"{label}: 4 agents" in written
    source = here / text.partition(":")[0]
    shutil.move(source, here / "elsewhere")
    choices._load_file.cache_clear()
    written = page.write([run], here / "page.html", surface=False).read_text()
    assert str(here) not in written and "could not be drawn" in written


def test_memory_of_an_own_graph(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--model", "mlp", "--algorithm", "ngm", "--agents", "4", "--topology", "edges.txt")
    assert main(["info", *options]) == 0
    assert "ngm keeps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "one-peer-exponential",
            "doubly stochastic, 3 rounds, 12 links in all, at most 1 neighbor",
        ),
        (
            "base-graph:1",
            "symmetric doubly stochastic, 4 rounds, 7 links in all, at most 1 neighbor",
        ),
        (
            "matchings:7",
            "drawn anew each round, 15 links in all, at most 1 neighbor in a round, 6 messages",
        ),
        (
            "matcha:0.5:7:star",
            "drawn anew each round, 5 links in all, at most 5 neighbors in a round",
        ),
        ("equi-dyn:undirected", "at most 1 neighbor in a round"),
        ("directed-ring", "doubly stochastic, 6 links, 6 messages a round, spectral gap 0.134"),
    ],
)
def test_a_run_on_a_schedule(
    text: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its record says what graphs these are, and a run that was ended in a period's middle has the same bits."""
    short = ("--agents", "6", "--steps", "8", "--batch-size", "8", "--checkpoint-every", "4")
    train = ["train", *short, "--topology", text, "--algorithm", "qgm", "--out", "run"]
    assert main(train) == 0
    record = json.loads((here / "run" / "config.json").read_text())
    assert record["topology"] == text and said in record["graph"]
    said_at_first = capsys.readouterr().out
    assert ("spectral gap" if text == "directed-ring" else "consensus rate") in said_at_first
    last = here / "run" / "checkpoint-8.safetensors"
    expected = last.read_bytes()
    last.unlink()
    assert main(["train", "--resume", "run"]) == 0
    assert last.read_bytes() == expected
    assert main(["info", "--topology", text, "--agents", "6", "--algorithm", "qgm"]) == 0
    assert f"{text}: {record['graph']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("algorithm", "options", "said"),
    [
        ("relay-sgd", (), "RelaySGD needs a tree that stays"),
        ("ngm", (), "NGM needs a symmetric mixing matrix, that of round 0 of"),
        ("qgm", ("--ccl-model", "0.1"), "--ccl-model and --ccl-data need a graph that stays"),
        (
            "qgm",
            ("--compressor", "stochastic-quantizer:8", "--running-sum"),
            "--running-sum keeps sums of a W that does not change",
        ),
    ],
)
def test_what_takes_no_schedule(
    algorithm: str,
    options: tuple[str, ...],
    said: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    graph = ("--topology", "one-peer-exponential", "--agents", "6", "--out", "run")
    assert main(["train", "--algorithm", algorithm, *graph, *options]) == 2
    assert said in capsys.readouterr().err and not (here / "run").exists()


HEARD = np.roll(np.eye(5), 1, 0) + np.eye(5)
HEARD[0, 3] = 1


@pytest.mark.parametrize(
    ("matrix", "kind", "taken"),
    [
        (
            HEARD / HEARD.sum(0),
            "column-stochastic, 6 links, 6 messages a round, spectral gap 0.26",
            "push-pull; with --push-sum dsaddle, dsgd, dsgdm, qgm, qsaddle",
        ),
        (HEARD / HEARD.sum(1, keepdims=True), "row-stochastic, 6 links", "push-pull"),
    ],
)
def test_facts_of_a_graph_need_no_algorithm(
    matrix: np.ndarray,
    kind: str,
    taken: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.save(here / "p.npy", matrix)
    asked = ["info", "--topology", "p.npy", "--agents", "5"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert f"p.npy: {kind}" in said
    hears = "an agent hears 1 to 2 others, 1.2 on average, and is heard by 1 to 2 others"
    assert hears in said
    assert f"methods that take it: {taken}\n" in said
    assert "what an agent keeps depends on the method: --algorithm NAME" in said
    assert main([*asked, "--algorithm", "push-pull"]) == 0
    assert "push-pull keeps" in capsys.readouterr().out
    assert main([*asked, "--algorithm", "qsaddle"]) == 2
    assert "QSADDLe needs a doubly stochastic" in capsys.readouterr().err


def test_methods_that_a_graph_suits() -> None:
    every = methods.taking("topology")
    assert suited_methods.told(fs.topology.star(6)).removeprefix("methods that take it: ").split(
        ", "
    ) == list(every)
    torus = suited_methods.told(fs.topology.torus(4, 4))
    assert torus.endswith("; with --consensus-step 0.5 d2") and "relay-sgd" not in torus
    failing = fs.Faults(links=0.1).over(topologies.find("directed-ring", 5, 0))
    assert "take it: none as it is; with --push-sum dsaddle" in suited_methods.told(failing)


def test_degrees() -> None:
    assert topologies.degrees(fs.topology.ring(5)) == "an agent hears 2 others"
    assert topologies.degrees(fs.topology.ring(2)) == "an agent hears 1 other"
    star = "an agent hears 1 to 5 others, 1.67 on average"
    assert topologies.degrees(fs.topology.star(6)) == star
    exponential = topologies.degrees(fs.topology.one_peer_exponential(8))
    assert exponential == "over all rounds an agent hears 3 others"
