"""The benchmark report: pages quote what is committed, GPUs' figures appear where there are some."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reporting import blocks, pages, peers
from benchmarks.reporting.__main__ import main
from benchmarks.reporting.bandwidth_picture import draw
from benchmarks.reporting.curated import read, write
from benchmarks.reporting.remarks import remarks
from benchmarks.reporting.render import render
from benchmarks.reporting.results import Results

ROOT = Path(__file__).parents[2]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGE, EVIDENCE = DOCS / "measured.md", DOCS / "evidence.md"
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "results"
    folder.mkdir()
    yield folder


def machine_info(device: str) -> dict[str, Any]:
    """What pytest-benchmark writes of a machine, the host's name among it."""
    return {
        **{"device": device, "threads": 7, "torch": "2.99", "triton": "3.99", "node": "a-host"},
        **{"python_version": "3.12.1", "system": "Linux", "machine": "x86_64", "cuda": "13.1"},
        "cpu": {"brand_raw": "A Processor", "count": 9, "l2_cache_size": 512},
    }


def row(name: str, **info: Any) -> dict[str, Any]:
    stats = {"min": 1e-3, "median": 2e-3, "max": 3e-3, "rounds": 9, "data": [1e-3, 3e-3]}
    return {"name": name, "fullname": f"x::{name}", "extra_info": info, "stats": stats}


def moved(name: str, percent: float, agents: int, dim: int, **info: Any) -> dict[str, Any]:
    """A case of 100 MB in `100 / percent` ms, beside a copy of 100 GB/s."""
    speed = {"bytes": 100_000_000, "gb_per_s": percent, "copy_gb_per_s": 100.0}
    return row(name, **speed, percent_of_copy=percent, agents=agents, dim=dim, **info)


def gpu_report() -> dict[str, Any]:
    """Made-up figures of every part that a GPU is measured in."""
    rows = [
        moved(f"test_op[{name}-{agents}-{dim}]", percent, agents, dim, op=name, **triton)
        for name, agents, dim, percent in (
            ("gossip_step", 16, 2**22, 91.4),
            ("gossip_step", 4096, 2**14, 72.6),
            ("agent_norm", 16, 2**22, 88.0),
            ("gossip_step", 16, 2**27, 93.9),
        )
        for triton in [{"implementation": "triton", "passes": 5}]
    ]
    for name, percent in (("fastsaddle", 80.0), ("torch.compile", 16.0)):
        info = {"method": "QGM", "implementation": name, "passes": 6}
        rows.append(moved(f"test_qgm[{name}]", percent, 16, 2**22, **info))
    counts = {"launches": 5.0, "copies": 0.5, "waits": 0}
    tax = {"network": "mlp", "asked": "auto", "implementation": "batched", "of_plain_loop": 0.1}
    run = {"training": "resnet20", "algorithm": "qsaddle", "agents": 1024, "graph": "on"}
    memory = {"method": "QSADDLe", "network": "resnet20", "agents": 4096, "row_bytes": 4.46e9}
    return {
        "datetime": "2030-01-02T03:04:05",
        "machine_info": machine_info("A GPU"),
        "benchmarks": [
            *rows,
            row("test_launches[QSADDLe]", method="QSADDLe", agents=16, dim=9, **counts),
            row("test_tax[16]", stacking_tax=1.25, agents=16, **tax),
            row("test_tax[256]", stacking_tax=1.5, agents=256, **tax),
            row("test_training", steps_per_second=0.75, peak_bytes=81.2e9, **run),
            row("test_memory[fs]", implementation="fastsaddle", step_milliseconds=40.0,
                kept_bytes=17.9e9, peak_bytes=18.0e9, **memory),
            row("test_memory[dense]", implementation="eager, dense W", step_milliseconds=400.0,
                kept_bytes=17.8e9, peak_bytes=35.7e9, **memory),
            moved("test_shape[512]", 70.0, 16, 99, shape_of="local_step", columns=512, warps=4),
            moved("test_shape[1024]", 85.0, 16, 99, shape_of="local_step", columns=1024, warps=8),
        ],
    }  # fmt: skip


GPU_LINES = """
A GPU, 7 CPU threads, torch 2.99, 2030-01-02; `copy_` 100.0 GB/s (read + write, median of the run)
| QGM.step | fastsaddle | 16 x 4,194,304 | 1.25 | 80.0 | 80 |
| QGM.step | 5.0 x torch.compile |
Percent of the copy bandwidth with 256 MiB a buffer, by agents:
|  | 16 | 4096 |
| agent_norm, triton | 88 |  |
| gossip_step, triton | 91 | 73 |
|  | 256 MiB | 8 GiB |
| gossip_step, 16 agents | 91 | 94 |
Gradients of 16 agents, batch 32, against one model on the concatenated batch:
| mlp | batched (chosen) | 1.25 | 0.10 x |
Gradients of 256 agents, batch 32, against one model on the concatenated batch:
| mlp | batched (chosen) | 1.50 | 0.10 x |
| QSADDLe.step | 16 | 5 | 0.5 | 0 |
| resnet20 | qsaddle | 1,024 | on | 0.75 | 768 | 81.20 |
One step of 4,096 agents with resnet20 outside the closures (4.46 GB a buffer):
| QSADDLe.step | fastsaddle | 40.0 | 17.90 | 18.00 |
| QSADDLe.step | eager, dense W | 400.0 | 17.80 | 35.70 |
|  | 512 x 4 | 1024 x 8 |
| local_step, 16 x 99 | 70 | 85 |
| `agent_norm`, `sam_perturb`, `gossip_step`: % of copy bandwidth, 1 to 128 agents | at least 85 | 88 | yes |
| `agent_norm`, `sam_perturb`, `gossip_step`: % of copy bandwidth, 1,024 agents | at least 70 | not measured |  |
| launches of a QSADDLe step | at most 5 | 5 | yes |
| stacking tax, 256 agents | at most 1.5 | 1.5 | yes |
""".strip().splitlines()


def test_pages_are_written_from_committed_results() -> None:
    found = pages.pages()
    assert {README, PAGE, EVIDENCE} < {*found}
    for page in found:
        text = page.read_text()
        assert text == pages.rewritten(text, Results()), (
            f"{page.name}: run python -m benchmarks.reporting write"
        )


def test_every_block_is_shown_once() -> None:
    marks = [name for page in pages.pages() for name in pages.MARK.findall(page.read_text())]
    assert sorted(name for name in marks if name != "end") == sorted(blocks.BLOCKS)


def test_the_few_rows_are_in_the_json() -> None:
    """Counted from the JSON, with no help of the report's code."""
    text = README.read_text()
    lines = text[text.index("| what | measured |") :].split("\n\n")[0].splitlines()[2:]
    cells = {line.split(" | ")[0].strip("| `"): line for line in lines}
    assert len(lines) == len(cells) == 8
    content = {
        n: json.loads((RESULTS / f"{n}.json").read_text()) for n in ("cpu", "peers", "growth")
    }
    infos = [r["extra_info"] for r in content["cpu"]["benchmarks"]]
    timed = [i for i in infos if i.get("dim") == 1_000_000 and i["agents"] == 16]
    for what in ("QGM.step", "QSADDLe.step", "Comp QGM.step", "gossip_step", "encode, 8 bits"):
        named = {"method": what.removesuffix(".step")} if what.endswith(".step") else {"op": what}
        alike = [i for i in timed if named.items() <= i.items()]
        (own,) = [i for i in alike if i["implementation"] in ("fastsaddle", "native")]
        said = f"{own['bytes'] / own['gb_per_s'] / 1e6:.2f} ms, {own['percent_of_copy']:.0f} % of the copy"
        assert said in cells[what]
        for other in alike:
            times = other["bytes"] / other["gb_per_s"] * own["gb_per_s"] / own["bytes"]
            assert other is own or f"{times:.1f} x {other['implementation']}" in cells[what]
    taxes = {i["network"]: i["stacking_tax"] for i in infos if i.get("asked") == "auto"}
    (row,) = [line for line in lines if "16 agents' gradients" in line]
    assert len(taxes) == 3 and all(f"{tax:.2f} ({name})" in row for name, tax in taxes.items())
    best = {r["engine"]: r.get("best", 0) for r in content["peers"]["results"] if r["agents"] == 16}
    kinds = {e["name"]: e["kind"] for e in content["peers"]["engines"]}
    peers = [s for name, s in best.items() if kinds[name] in ("peer", "peer without gossip")]
    (row,) = [line for line in lines if "agent-steps per second" in line]
    assert (
        f"| {best['fastsaddle']:,.0f} | {best['fastsaddle'] / max(peers):.1f} x the fastest peer"
        in row
    )
    grown = [r for r in content["growth"]["rows"] if r["agents"] == 1024 and r["threads"] == 1]
    (row,) = [line for line in lines if "1,024 agents" in line]
    assert f"{1e3 * grown[0]['seconds']:.0f} ms, {grown[0]['bytes'] / 2**20:.0f} MiB" in row


def test_peers_and_growth_of_the_page_are_in_the_json() -> None:
    """Counted from the JSON, with no help of the report's code."""
    text = PAGE.read_text()
    peers, growth = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("peers", "growth")
    )
    for found in peers["results"]:
        if "best" in found:
            time = f"{1e3 / found['a_cpu_second']:.2f} ms"
            assert f"| {found['best']:,.0f}, {found['median']:,.0f}, {time} |" in text
    for row in growth["rows"]:
        cells = (
            *(row["threads"], f"{row['agents']:,}"),
            *(f"{1e3 * row['seconds']:.1f}", f"{row['time_over_linear']:.2f}"),
            *(f"{row['bytes'] / 2**20:.0f}", f"{row['memory_over_linear']:.2f}"),
        )
        assert f"| {' | '.join(map(str, cells))} |" in text


def test_every_cell_of_the_page_is_in_the_json() -> None:
    """Counted from the JSON, with no help of the report's code."""
    rows = [r["extra_info"] for r in json.loads((RESULTS / "cpu.json").read_text())["benchmarks"]]
    expected = sorted(
        f"{i['agents']} x {i['dim']:,} | {i['bytes'] / i['gb_per_s'] / 1e6:.2f} | "
        f"{i['gb_per_s']:.1f} | {i['percent_of_copy']:.0f}"
        for i in rows
        if "percent_of_copy" in i
    )
    text = PAGE.read_text()
    cell = r"^\|.*\| (\d+ x [\d,]+ \| [\d.]+ \| [\d.]+ \| \d+) \|$"
    cells = re.findall(cell, text, re.MULTILINE)
    assert sorted(cells) == expected and len(cells) > 50


def page(results: Path) -> str:
    """All blocks of a page of these results, where nothing was compared."""
    marks = "\n".join(f"<!-- measured: {name} -->\n{pages.END}" for name in blocks.BLOCKS)
    return pages.rewritten(marks, Results(results, comparisons=results / "none"))


def test_gpu_results_appear(results: Path) -> None:
    (results / "cpu.json").write_text((RESULTS / "cpu.json").read_text())
    without = page(results)
    assert without.count("no figure for one is claimed.") == 2
    assert "Nothing was measured on a GPU yet." in without
    (results / "gpu_other.json").write_text(json.dumps(gpu_report()))
    text = page(results)
    assert "no figure for one is claimed" not in text and "GPU yet" not in text
    assert "On a GPU: A GPU, 7 CPU threads" in text
    first = {**gpu_report(), "machine_info": machine_info("Another GPU")}
    (results / "gpu_another.json").write_text(json.dumps(first))
    text = page(results)
    assert text.index("On a GPU: Another GPU") < text.index("On a GPU: A GPU")


def test_every_table_of_a_gpu() -> None:
    text = render(gpu_report())
    assert [line for line in GPU_LINES if line not in text] == []
    # a row that is laid out by agents is not listed twice
    tables = text.partition("Figures to reach")[0]
    assert tables.count("gossip_step") == 2 and tables.count("local_step") == 1


def test_a_figure_that_is_missed_is_told() -> None:
    content = gpu_report()
    (tax,) = [r for r in content["benchmarks"] if r["name"] == "test_tax[16]"]
    tax["extra_info"]["stacking_tax"] = 1.31
    assert "| stacking tax, 16 agents | at most 1.3 | 1.31 | no |" in render(content)
    native = {"op": "agent_norm", "implementation": "native"}
    content["machine_info"] = machine_info("cpu")
    content["benchmarks"] = [
        moved("a", 90.0, 16, 10, op="sam_perturb", implementation="native"),
        moved("b", 76.0, 16, 10, **native),
        moved("c", 3.0, 256, 10, **native),
        moved("d", 2.0, 16, 10, op="agent_norm", implementation="reference"),
    ]
    text = render(content)
    assert "`sam_perturb`: % of copy bandwidth, 16 agents | at least 77 | 76 | no |" in text
    assert "| stacking tax, mlp, 16 agents | at most 1.1 | not measured |  |" in text
    del content["benchmarks"][:]
    assert "Figures" not in render(content)


def test_peers_are_spoken_of_where_they_were_measured() -> None:
    kinds = {"fastsaddle": "own", "a": "peer", "b": "peer without gossip"}
    speeds = {("fastsaddle", 16): 800.0, ("fastsaddle", 64): 600.0, ("a", 16): 100.0}
    content = {
        "agents": [16, 64],
        "engines": [{"name": name, "kind": kind} for name, kind in kinds.items()],
        "results": [{"engine": e, "agents": n, "best": s} for (e, n), s in speeds.items()]
        + [
            {"engine": "b", "agents": 64, "best": 400.0},
            {"engine": "b", "agents": 16, "best": 160.0},
        ]
        + [{"engine": "a", "agents": 64, "failure": "why"}],
    }
    words, table = peers.words(content), peers.best_turns(content)
    assert words.endswith(
        "with 16 and 64 agents. fastsaddle is 5.0 and 1.5 times as fast as the fastest peer and "
        "8.0 times as fast as the fastest peer that gossips (16 agents)."
    )
    assert table.splitlines()[2:] == [
        "| 16 | 800 | 100 | 160 |",
        "| 64 | 600 | not measured | 400 |",
    ]
    assert "| a | b (no gossip) |" in table


def test_nothing_measured(results: Path) -> None:
    text = re.sub(r"<!--.*?-->\n?", "", page(results))
    assert {*text.splitlines()} == {
        *("Not measured.", "Not measured on a CPU.", "Not run."),
        "Not measured on a GPU: no figure for one is claimed.",
        *("", "What is fast:", "What is slow, or lost:"),
        "* Nothing was measured on a GPU, and no figure for one is claimed.",
    }


def test_files_of_a_machine_are_merged(tmp_path: Path) -> None:
    whole, later = gpu_report(), gpu_report()
    (again,) = [r for r in later["benchmarks"] if r["name"] == "test_training"]
    again["extra_info"]["steps_per_second"] = 0.875
    later["benchmarks"] = [again, row("failed")]
    paths = [tmp_path / name for name in ("a.json", "b.json", "kept.json")]
    for path, content in zip(paths, (whole, later), strict=False):
        path.write_text(json.dumps(content))
    write(read(paths[:2]), paths[2])
    kept = json.loads(paths[2].read_text())
    assert "0.88 | 896" in render(kept) and len(kept["benchmarks"]) == len(whole["benchmarks"])  # fmt: skip
    assert "a-host" not in paths[2].read_text() and kept["machine_info"]["cuda"] == "13.1"
    # what is kept can be read again, and stays what it is
    assert read([paths[2], paths[2]]) == kept
    later["machine_info"]["device"] = "cpu"
    paths[1].write_text(json.dumps(later))
    with pytest.raises(ValueError, match="of one device can be merged, got A GPU and cpu"):
        read(paths[:2])
    paths[1].write_text("{}")
    with pytest.raises(ValueError, match=r"b\.json must be pytest-benchmark's JSON"):
        read(paths[:2])


def test_files_of_old_are_read(tmp_path: Path) -> None:
    """They call an op a room."""
    old = json.dumps(gpu_report()).replace("test_op[", "test_room[").replace('"op":', '"room":')
    assert old.count('"room":') == 4
    path = tmp_path / "old.json"
    path.write_text(old)
    assert render(read([path])) == render(gpu_report())


def test_check_and_write(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    begin, end = "<!-- measured: gpus -->", "<!-- measured: end -->"
    page.write_text(f"before\n{begin}\nstale\n{end}\nafter\n")

    def run(command: str) -> None:
        main([command, str(page), "--results", str(results)])

    with pytest.raises(SystemExit, match=r"page\.md differs from"):
        run("check")
    assert "stale" in page.read_text()
    run("write")
    run("check")
    claim = "Not measured on a GPU: no figure for one is claimed."
    assert page.read_text() == f"before\n{begin}\n{claim}\n{end}\nafter\n"
    (results / "gpu_a.json").write_text(json.dumps(gpu_report()))
    with pytest.raises(SystemExit, match="differs"):
        run("check")
    for text, words in (
        (f"{end} and {begin}", "must come in pairs"),
        (begin, "measured: end --> is missing"),
        (f"{begin}\n{begin}\n{end}", "must come in pairs"),
        (f"<!-- measured: no-such -->\n{end}", "must name one of few, .* got 'no-such'"),
    ):
        page.write_text(text)
        with pytest.raises(SystemExit, match=words):
            run("write")
        assert page.read_text() == text


def test_commands(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps(gpu_report()))
    main(["keep", str(report), "--as", str(results / "gpu_a.json")])
    main(["tables", str(report)])
    tables = capsys.readouterr().out
    main(["show", "gpus", "--results", str(results)])
    assert capsys.readouterr().out == f"On a GPU: {tables}"
    main(["draw", str(report), "--as", str(tmp_path / "a.svg")])
    assert (tmp_path / "a.svg").stat().st_size > 5000
    with pytest.raises(SystemExit, match=r"NAME must be one of few, .* got 'page'"):
        main(["show", "page"])


def test_remarks_quote_the_report() -> None:
    content = gpu_report()
    assert remarks(content) == ""
    both = {"implementation": "native", "op": "consensus"}
    content["benchmarks"] = [
        moved("a", 99.6, 256, 10, **both),
        moved("b", 54.4, 16, 10, **both),
        moved("c", 7.0, 16, 10, op="consensus", implementation="reference"),
        moved("d", 50.0, 16, 10, op="compress_ef", implementation="native"),
        moved("e", 20.0, 16, 10, op="error feedback, 8 bits", implementation="fastsaddle"),
    ]
    text = remarks(content)
    assert "* `consensus` sums in float64: 54 to 100\n" in text and "2.5 times as long" in text
    assert "top_k" not in text and "tracking" not in text


def test_picture(tmp_path: Path) -> None:
    content = read([RESULTS / "cpu.json"])
    paths = [tmp_path / name for name in ("a.svg", "b.svg", "c.png")]
    for path in paths:
        draw(content, path)
    # equal figures give equal files
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    draw(gpu_report(), paths[0])
    assert paths[0].stat().st_size > 5000
    content["benchmarks"] = []
    with pytest.raises(ValueError, match="needs percents of the copy bandwidth"):
        draw(content, paths[0])
