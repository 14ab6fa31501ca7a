"""Pictures and the table of docs/graphs.md are of the graphs as they are now."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

import fastsaddle as fs
from tests.packaging.test_docs import table

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "graphs.md").read_text()
SCRIPT = "python docs/_ext/graph_pictures.py"


@pytest.fixture(scope="module")
def pictures() -> Any:
    pytest.importorskip("matplotlib").use("agg")
    spec = spec_from_file_location("graph_pictures", DOCS / "_ext" / "graph_pictures.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_pictures_are_drawn_from_these_graphs(pictures: Any) -> None:
    assert {path.stem for path in (DOCS / "pictures").iterdir()} >= set(pictures.FIGURES)
    for name in pictures.FIGURES:
        path = DOCS / "pictures" / f"{name}.svg"
        assert pictures.digest_in(path) == pictures.digest(name), f"{path} is old: {SCRIPT}"
        assert f"](pictures/{name}.svg)" in PAGE


def test_the_table_of_gaps_is_computed(pictures: Any) -> None:
    assert pictures.table() in PAGE, f"docs/graphs.md has another table than {SCRIPT} prints"


def test_gaps_of_the_text() -> None:
    for graph in (fs.topology.dyck(), fs.topology.social_network()):
        assert f"{graph.spectral_gap:.3f} (`{graph.name}`)" in " ".join(PAGE.split())


def test_graphs_that_stay_are_those_of_the_page() -> None:
    for call, texts, _ in table(PAGE, "| `fs.topology` | `--topology` | neighbors")[1:]:
        name = call.strip("`").partition("(")[0]
        assert callable(getattr(fs.topology, name))
        for text in texts.replace("`", "").split(", "):
            if "." not in text or text.startswith("erdos"):
                agents = 32 if name in ("dyck", "social_network") else 16
                assert fs.topology.parse(text, agents).name.startswith(name.replace("_", "-"))


@pytest.mark.parametrize("text", ["ring", "torus:4x4", "binary-tree", "chain", "star"])
def test_all_agents_and_links_are_drawn(pictures: Any, text: str) -> None:
    graph = fs.topology.parse(text, 16)
    assert len(set(pictures.places(graph))) == graph.agents
    assert len([*pictures.links(graph)]) == graph.edges
