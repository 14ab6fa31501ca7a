"""Tables of accuracies are those of the committed tables of `fastsaddle compare`, with no help of the report's code."""

import csv
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPRODUCTION = ROOT / "benchmarks" / "reproduction"
PAGES = (ROOT / "docs" / "measured.md").read_text(), (ROOT / "docs" / "evidence.md").read_text()


def rows(name: str) -> list[dict[str, str]]:
    with (REPRODUCTION / name / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def percent(row: dict[str, str], name: str = "accuracy") -> str:
    """Mean and deviation as the pages write them."""
    return f"{100 * float(row[name]):.2f} ± {100 * float(row[f'{name}_deviation']):.2f}"


def table(page: str, first: str) -> list[list[str]]:
    """Cells of the Markdown table whose head begins with `first`, marks of bold text left out."""
    lines = page[page.index(f"| {first} |") :].splitlines()[2:]
    lines = [*takewhile(lambda line: line.startswith("|"), lines)]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]


def test_fashion_mnist() -> None:
    found = {(r["algorithm"], r["alpha"]): percent(r) for r in rows("fashion_mnist")}
    algorithms, alphas = ("dsgd", "dsgdm", "qgm", "dsaddle", "qsaddle"), ("0.1", "0.01", "0.001")
    expected = [[alpha, *(found[a, alpha] for a in algorithms)] for alpha in alphas]
    assert table(PAGES[0], "Dirichlet") == expected
    beside = table(PAGES[1], "algorithm | gradients a step | alpha 0.1")
    assert [cells[2:] for cells in beside] == [[found[a, n] for n in alphas] for a in algorithms]


def test_compression() -> None:
    found = rows("compression")
    expected = [
        [
            percent(row),
            percent(row, "mean_accuracy"),
            f"{float(row['bytes']) / 1e6:.1f}",
            f"{100 * float(row['compression_error'] or 0):.1f}",
        ]
        for row in found
    ]
    cells = [line[2:] for line in table(PAGES[1], "algorithm | sent as")]
    assert [[*c[:3], f"{float(c[3]):.1f}"] for c in cells] == expected


def test_all_systems() -> None:
    pairs: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows("all_systems"):
        pairs.setdefault((row["algorithm"], row["sam"]), []).append(row)
    expected = sorted(
        [
            *(percent(row) for row in pair),
            ", ".join(f"{float(row['sam_sharpness']):.3f}" for row in pair),
            ", ".join(f"{float(row['hessian_trace']):,.0f}" for row in pair),
            f"{float(pair[0]['bytes']) / 1e6:,.0f}",
        ]
        for pair in pairs.values()
    )
    assert sorted(c[2:] for c in table(PAGES[1], "method | gradients a step")) == expected
    assert len(expected) == 20


def test_changing_graphs() -> None:
    found = {
        (r["algorithm"], r["topology"], r["faults"], r["alpha"]): r for r in rows("changing_graphs")
    }
    graphs = (
        *(("ring", faults) for faults in ("none", "links:0.1", "links:0.3")),
        *((graph, "none") for graph in ("one-peer-exponential", "matchings")),
        *(("directed-exponential", faults) for faults in ("none", "links:0.3")),
    )
    expected = []
    for graph in graphs:
        for alpha in ("0.1", "0.01"):
            cells = [found[(name, *graph, alpha)] for name in ("dsgd", "qgm", "qsaddle")]
            megabytes = f"{float(cells[0]['bytes']) / 1e6:,.0f}"
            expected.append([alpha, *map(percent, cells), megabytes])
    assert [cells[1:] for cells in table(PAGES[1], "graph | alpha")] == expected
    assert len(found) == 3 * len(expected)


def test_changing_graphs_with_lenet5() -> None:
    found = {
        (r["algorithm"], r["lr"], r["topology"], r["faults"]): r
        for r in rows("changing_graphs_lenet5")
    }
    methods = (("dsgd", "0.1"), ("qgm", "0.03"), ("qsaddle", "0.1"), ("qsaddle", "0.3"))
    graphs = (("ring", "none"), ("ring", "links:0.3"), ("one-peer-exponential", "none"))
    cells = table(PAGES[1], "network's graph")
    assert len(found) == len(methods) * len(graphs)
    for line, graph in zip(cells, graphs, strict=True):
        for said, method in zip(line[1:], methods, strict=True):
            row = found[(*method, *graph)]
            assert said.startswith(percent(row))
            assert ("diverged" in said) == (row["diverged"] != "0")


def test_trade_offs() -> None:
    expected = [
        [
            row["gossip_every"],
            percent(row),
            percent(row, "worst_accuracy"),
            f"{float(row['bytes']) / 1e6:.1f}",
        ]
        for row in rows("trade_offs")
    ]
    cells = table(PAGES[1], "sent along")
    assert [[line[1], *line[3:]] for line in cells] == expected
