"""Agents over real processes and gloo: the bits of the stack, ordinary modules, groups, meshes, and what is sent."""

from pathlib import Path
from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.ranks.plan import Plan
from tests.ranks import processes, work
from tests.ranks.processes import Ended

HEADER = 128
STEPS = 6
# whose bytes are derived here
EXACT = ("DSGD", "QGM", "QSADDLe", "GradientTracking", "NGM")
# counts of agents, by numbers of ranks
COUNTS = {2: (3, 5), 4: (3, 1, 2, 2), 8: (1,) * 8}
CHANGING = ("one-peer-exponential", "matchings:3")
OVERLAPPED = ("GradientTracking", "NGM", "QGM mixing first")
CASES = (
    *(("DSGD", graph) for graph in ("ring", "exponential")),
    *(("QGM", graph) for graph in ("ring", "exponential")),
    *(("QSADDLe", graph) for graph in ("ring", "exponential")),
    *(("GradientTracking", graph) for graph in ("ring", "exponential")),
    *(("NGM", graph) for graph in ("ring", "exponential")),
    *((name, graph) for name in ("QSADDLe", "QGM in 8 bits") for graph in CHANGING),
    *((name, "ring") for name in ("D2", "QGM in 8 bits", "QSADDLe of top-k", "LocalSGD", "EASGD")),
)


def values(found: list[Ended]) -> list[Any]:
    """What all ranks returned; raises what one of them did."""
    for ended in found:
        if ended.error is not None:
            raise ended.error
        assert not ended.hung
    return [ended.value for ended in found]


def is_equal(whole: dict[str, Any], parts: list[dict[str, Any]]) -> None:
    """Assert that the parts of all ranks are those of the stack, to the bit."""
    assert torch.equal(torch.cat([part["x"] for part in parts]), whole["x"])
    agents = len(whole["x"])
    for name, rows in whole["states"].items():
        if len(rows) == agents:
            own = [part["states"][name][: len(part["x"])] for part in parts]
            assert torch.equal(torch.cat(own), rows), name
        else:
            assert all(torch.equal(part["states"][name], rows) for part in parts), name
    assert sum(part["sent"] for part in parts) == whole["sent"]


def expected_on_wire(
    name: str, graph: str, counts: tuple[int, ...], rank: int, columns: int
) -> int:
    """Bytes that a rank sends in `STEPS` steps, headers included."""
    agents = sum(counts)
    plan = Plan(getattr(fs.topology, graph)(agents), counts, rank)
    rows = sum(map(len, plan.sends.values())) * (HEADER + 4 * columns)
    edges = sum(map(len, plan.edges_out.values())) * (HEADER + 4 * columns)
    if name == "GradientTracking":
        # both rows behind one header
        return STEPS * sum(map(len, plan.sends.values())) * (HEADER + 2 * 4 * columns)
    return STEPS * (rows + edges if name == "NGM" else rows)


@pytest.mark.parametrize("ranks", COUNTS)
def test_bits_are_those_of_the_stack(ranks: int, tmp_path: Path) -> None:
    counts = COUNTS[ranks]
    cases = [(name, graph, counts) for name, graph in CASES]
    by_rank = values(processes.run(work.train, ranks, tmp_path, cases, STEPS, bound=20))
    for number, (name, graph, _) in enumerate(cases):
        parts = [found[number] for found in by_rank]
        is_equal(work.on_a_stack(name, graph, sum(counts), STEPS), parts)
        if graph not in CHANGING and name in EXACT:
            for rank, part in enumerate(parts):
                wire = expected_on_wire(name, graph, counts, rank, part["columns"])
                assert part["wire"] == wire, (name, graph, rank)


def test_overlap_changes_no_bit(tmp_path: Path) -> None:
    cases = [(name, "ring", COUNTS[2]) for name in OVERLAPPED]
    by_rank = values(processes.run(work.train, 2, tmp_path, cases, STEPS, "auto", bound=20))
    for number, (name, graph, _) in enumerate(cases):
        whole = work.on_a_stack(name, graph, sum(COUNTS[2]), STEPS)
        is_equal(whole, [found[number] for found in by_rank])


@pytest.mark.parametrize("kind", ["group", "mesh"])
def test_ordinary_modules_one_agent_a_rank(kind: str, tmp_path: Path) -> None:
    parts = values(processes.run(work.one_agent_a_rank, 4, tmp_path, kind, STEPS, bound=20))
    whole = work.on_a_stack("QSADDLe", "ring", 4, STEPS)
    is_equal(whole, parts)


def test_two_groups_are_two_networks(tmp_path: Path) -> None:
    parts = values(processes.run(work.two_groups, 8, tmp_path, STEPS, bound=20))
    whole = work.on_a_stack("QGM", "ring", 4, STEPS)
    for half in (parts[:4], parts[4:]):
        is_equal(whole, half)


def test_every_rank_is_told_of_another_rate(tmp_path: Path) -> None:
    for ended in processes.run(work.differing, 4, tmp_path, bound=15):
        assert isinstance(ended.error, ValueError)
        assert "lr of parameter group 0 must be equal on all ranks" in str(ended.error)
        assert "0.1 on ranks 0, 2, 3 and 0.2 on rank 1" in str(ended.error)


def test_one_process_alone_needs_an_open_group() -> None:
    with pytest.raises(RuntimeError, match="init_process_group"):
        fs.place(4)
