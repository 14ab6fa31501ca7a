"""Names on the command line: kebab case, with the earlier spellings read as the same names."""

import hashlib
import json
from pathlib import Path

import pytest

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim import methods
from fastsaddle.sim.comparison import grid_source
from fastsaddle.sim.comparison.grid import Cell
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.report import page

EARLIER = {
    "gradienttracking": "gradient-tracking",
    "momentumtracking": "momentum-tracking",
    "relaysgd": "relay-sgd",
    "qgadam": "qg-adam",
    "localsgd": "local-sgd",
    "pushpull": "push-pull",
}
ONE_WORD = (
    *("d2", "dppf", "dsaddle", "dsgd", "dsgdm", "easgd", "gut"),
    *("ngm", "nsaddle", "qgm", "qsaddle"),
)
GRAPHS = {
    "fully_connected": "fully-connected",
    "social_network": "social-network",
    "binary_tree": "binary-tree",
    "random_regular:3:7": "random-regular:3:7",
    "erdos_renyi:0.5": "erdos-renyi:0.5",
}


def test_names_of_the_algorithms() -> None:
    assert methods.names() == tuple(sorted((*ONE_WORD, *EARLIER.values())))
    assert methods.find("relay-sgd").function is fs.RelaySGD


@pytest.mark.parametrize(("earlier", "name"), EARLIER.items())
def test_earlier_names_of_algorithms(earlier: str, name: str) -> None:
    assert methods.find(earlier).function is methods.find(name).function
    assert TrainConfig(algorithm=earlier) == TrainConfig(algorithm=name)
    assert TrainConfig(algorithm=earlier).algorithm == name
    assert TrainConfig(algorithm=name.replace("-", "_")).algorithm == name


@pytest.mark.parametrize(("earlier", "name"), GRAPHS.items())
def test_earlier_names_of_topologies(earlier: str, name: str) -> None:
    assert TrainConfig(topology=earlier) == TrainConfig(topology=name)
    assert TrainConfig(topology=earlier).topology == name


def test_a_name_that_nothing_has_is_refused_as_it_was_written() -> None:
    with pytest.raises(
        ValueError, match=r"--algorithm must be one of .*relay-sgd.*got 'relay_gsd'"
    ):
        TrainConfig(algorithm="relay_gsd").check()
    assert methods.spelled("my_net.py:relaysgd") == "my_net.py:relaysgd"


def test_a_grid_file_with_earlier_names(tmp_path: Path) -> None:
    both = []
    for relay, tree in (("relaysgd", "binary_tree"), ("relay-sgd", "binary-tree")):
        path = tmp_path / f"{relay}.toml"
        path.write_text(
            f'algorithm = ["dsgd", "{relay}"]\n'
            f'[[override]]\nwhen = {{ algorithm = "{relay}" }}\ntopology = "{tree}"\n'
        )
        both.append(grid_source.build(path, ["--seed", "0"]))
    assert both[0] == both[1]
    assert [c.config.topology for c in both[0].cells()] == ["ring", "binary-tree"]


def test_an_override_holds_for_a_name_that_the_options_spell_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(
        'algorithm = ["dsgd", "RelaySGD"]\n'
        '[[override]]\nwhen = { algorithm = "relay_sgd" }\ntopology = "binary-tree"\n'
    )
    cells = grid_source.build(path, []).cells()
    assert [c.config.topology for c in cells] == ["ring", "binary-tree"]


def test_runs_of_an_earlier_comparison_are_found_again() -> None:
    cell = Cell(TrainConfig(algorithm="relay-sgd", topology="random-regular:3:7"))
    content = json.dumps({"algorithm": "relaysgd", "topology": "random_regular:3:7"})
    assert cell.name == f"relaysgd-{hashlib.sha256(content.encode()).hexdigest()[:10]}"


def test_runs_with_both_names_are_one_group(tmp_path: Path) -> None:
    short = ("--agents", "4", "--steps", "2", "--eval-every", "2", "--topology", "binary-tree")
    options = ("--algorithm", "relay-sgd", "localsgd", "--seed", "0", "1", *short)
    out = tmp_path / "compared"
    assert main(["compare", *options, "--jobs", "1", "--out", str(out)]) == 0
    # as an earlier version would have stored one of them, and the comparison
    config = next(c for c in sorted(out.glob("cells/relaysgd-*/config.json")))
    for path in (config, out / "compare.json"):
        text = path.read_text().replace("relay-sgd", "relaysgd").replace("local-sgd", "localsgd")
        path.write_text(text.replace("binary-tree", "binary_tree"))
    stored = json.loads((out / "compare.json").read_text())
    note = {"when": {"algorithm": "relaysgd"}, "values": {"lr": 0.1}, "accuracy": 0.5, "edges": []}
    stored["chosen"], stored["tuning"] = [note], [{"directory": "cells/t", "options": {}}]
    (out / "compare.json").write_text(json.dumps(stored))
    assert '"relaysgd"' in config.read_text() and '"binary_tree"' in config.read_text()
    text = page.write([out], tmp_path / "page.html", surface=False).read_text()
    assert "4 runs in 2 groups" in text
    assert "algorithm relay-sgd: lr 0.1" in text and "binary_tree" not in text
    assert "all with all: local-sgd" in text
    assert main(["train", "--resume", str(config.parent)]) == 0
