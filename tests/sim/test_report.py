"""`fastsaddle report`: what the page shows, against numbers made up here; and that a browser can show it."""

import base64
import html
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from fastsaddle.graphs import topology
from fastsaddle.sim.config import NOT_STORED, TrainConfig
from fastsaddle.sim.data.datasets.digits import digits
from fastsaddle.sim.data.partitions._base import PartitionStatistics
from fastsaddle.sim.report import (
    curve_drawing,
    curve_figures,
    curves,
    page,
    split_figures,
    surface_figures,
    surfaces,
    topology_figures,
)
from fastsaddle.sim.report.groups import RunGroup, group
from fastsaddle.sim.report.runs import Run, read, read_all
from fastsaddle.sim.run import checkpoint, initial_models, plots
from fastsaddle.sim.run.run_dir import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread")

FIGURES = (
    *("learning-curves", "loss-curves", "training-loss", "consensus-distance"),
    *("accuracy-over-bytes", "class-heat-map", "topology", "loss-surface"),
)
TABLES = ("ranking", "results", "differing", "runs", "surroundings")
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SURROUNDINGS = {
    "backend": {"consensus": "native", "gossip_step": "reference"},
    "machine": "x86_64 AVX2",
    "versions": {"fastsaddle": "0.1.0", "torch": "2.13.0"},
}


def make_run(path: Path, seed: int, every: int = 10, until: int = 60, **options: Any) -> Path:
    """A run's directory with random but smooth metrics, evaluated every so many of 60 steps."""
    config = TrainConfig(**{"steps": 60, "agents": 6, "seed": seed, **options})
    random = np.random.default_rng([seed, config.agents, *map(ord, config.algorithm)])
    path.mkdir(parents=True)
    stored = {name: value for name, value in asdict(config).items() if name not in NOT_STORED}
    (path / "config.json").write_text(json.dumps({**stored, **SURROUNDINGS}, default=str))
    end = random.uniform(0.8, 0.95)
    rows = []
    for step in [*range(0, until, every), until]:
        share = 1 - np.exp(-step / 15)
        rows.append(
            {
                "step": step,
                "loss": 2.3 - 2.1 * share + random.uniform(0, 0.1),
                "consensus_accuracy": 0.1 + (end - 0.1) * share + random.uniform(0, 0.02),
                "mean_accuracy": 0.1 + 0.6 * share,
                "worst_accuracy": 0.1 + 0.4 * share,
                "consensus_distance": share * np.exp(-step / 60) + random.uniform(0, 0.02),
                "train_loss": 2.3 - 2.2 * share if step else None,
                "lr": config.lr,
                "bytes_sent": step * config.agents * 40_000,
                "step_seconds": 0.01 * step,
                "compression_error": 0.0,
                "gradient_evaluations": step * config.agents * (1 + ("saddle" in config.algorithm)),
                "seconds": 0.02 * step,
            }
        )
    write_rows(path, rows)
    counts = random.integers(0, 60, size=(config.agents, 10)) * random.integers(
        0, 2, size=(config.agents, 10)
    )
    counts[:, 3] += 1
    content = {"classes": [*"0123456789"], "counts": counts.tolist()}
    (path / "partition.json").write_text(json.dumps(content))
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def make_checkpoint(path: Path) -> torch.Tensor:
    """Random models for the agents of a run on digits: `[agents, stride]`."""
    config = read(path).config
    dataset = digits(device=torch.device("cpu"))
    x = initial_models.build_stack(config, dataset, torch.device("cpu")).x.clone()
    x += 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(config.seed)) * (x != 0)
    checkpoint.save(path, {"x": x}, 60, {})
    return x


def make_comparison(path: Path, runs: dict[str, dict[str, Any]], **more: Any) -> Path:
    """A comparison's directory with a run for each name; the values are arguments of make_run."""
    cells = []
    for name, arguments in runs.items():
        make_run(path / "cells" / name, **arguments)
        options = {k: v for k, v in arguments.items() if k not in ("every", "until")}
        cells.append({"directory": f"cells/{name}", "options": options})
    content = {"varied": ["algorithm"], "cells": cells, "tuning": [], "chosen": [], **more}
    (path / "compare.json").write_text(json.dumps(content))
    return path


def groups_of(*directories: Path, tuned: tuple[str, ...] = ()) -> list[RunGroup]:
    return group(read_all(list(directories))[0], set(tuned))


def element(text: str, id: str) -> str:
    """The content of the figure or table with this id."""
    kind = re.search(rf'<(figure|table)\b[^>]* id="{id}"|<(figure|table) id="{id}"', text)
    assert kind is not None, f"no figure or table {id}"
    tag = kind[1] or kind[2]
    return text[kind.start() : text.index(f"</{tag}>", kind.start())]


def cells_of(table: str) -> list[list[str]]:
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in lines]
    return [[html.unescape(re.sub("<[^>]*>", "", cell)) for cell in line] for line in cells]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with all that can happen to a run: two seeds each, one diverged, one under way, one of before."""
    folder = tmp_path_factory.mktemp("report")
    algorithms = ("dsgd", "qgm", "qsaddle")
    runs = {f"{a}-{s}": {"seed": s, "algorithm": a} for a in algorithms for s in (0, 1)}
    runs["dsgd-1"]["until"] = 20
    runs["qgm-1"]["every"] = 7
    runs["torus"] = {"seed": 0, "algorithm": "qgm", "topology": "torus:2x3", "until": 30}
    chosen = {"when": {"algorithm": "qgm"}, "values": {"lr": 0.1}, "accuracy": 0.9, "edges": ["lr"]}
    path = make_comparison(
        folder / "comparison", runs, tuning=[{"directory": "cells/t"}], chosen=[chosen]
    )
    content = json.loads((path / "compare.json").read_text())
    # a torus has three neighbors here, a ring two
    torus = [
        row | {"bytes_sent": row["bytes_sent"] * 3 // 2} for row in rows_of(path / "cells/torus")
    ]
    write_rows(path / "cells/torus", torus)
    content["cells"].append({"directory": "cells/never", "options": {}})
    (path / "compare.json").write_text(json.dumps(content))
    (path / "comparison.png").write_bytes(PIXEL)
    cells = path / "cells"
    (cells / "dsgd-1" / "diverged.json").write_text(
        json.dumps({"step": 23, "message": "agent 3: <nan>"})
    )
    old = [{k: row[k] for k in row if k not in NEW} for row in rows_of(cells / "dsgd-0")]
    old[2]["loss"] = None
    write_rows(cells / "dsgd-0", old)
    for name in ("qgm-0", "qsaddle-0"):
        make_checkpoint(cells / name)
    (cells / "qsaddle-0" / "sharpness.json").write_text(
        json.dumps({"sam_sharpness": 0.0123, "top_eigenvalue": 4.5, "rho": 0.05})
    )
    return path


NEW = ("train_loss", "lr", "step_seconds", "compression_error", "gradient_evaluations")


@pytest.fixture(scope="module")
def written(everything: Path) -> Path:
    return page.write([everything], everything.parent / "page.html", samples=50, points=5)


@pytest.fixture(scope="module")
def text(written: Path) -> str:
    return written.read_text()


def test_every_figure_and_table_is_there(text: str) -> None:
    for name in FIGURES:
        content = element(text, name)
        assert "<figcaption>" in content
        assert "<svg" in content, name
    for name in TABLES:
        assert len(cells_of(element(text, name))) > 1, name
    assert element(text, "loss-surface").count('role="img"') == 2
    assert element(text, "topology").count('role="img"') == 2


def test_what_was_not_done_has_no_card(text: str) -> None:
    """Nothing was compressed in these runs, and the page draws the comparison's curves itself."""
    assert 'id="compression-error"' not in text and "Nothing was compressed" not in text
    assert 'id="comparison-0"' not in text


def test_a_comparisons_picture_is_shown_where_it_has_no_curves(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    paths = [
        make_run(out / "cells" / f"{rho}", 0, every=30, algorithm="qsaddle", rho=rho)
        for rho in (0.0, 0.1, 0.2)
    ]
    cells = [{"directory": str(path.relative_to(out)), "options": {}} for path in paths]
    (out / "compare.json").write_text(json.dumps({"cells": cells}))
    (out / "comparison.png").write_bytes(PIXEL)
    text = page.write([out], tmp_path / "page.html", surface=False).read_text()
    assert "data:image/png;base64," in element(text, "comparison-0")


def test_nothing_half_written_is_left(written: Path, everything: Path) -> None:
    assert not list(everything.parent.rglob("*.partial"))
    assert {path.name for path in everything.parent.iterdir()} >= {"page.html", "comparison"}


def test_the_page_needs_nothing_else(text: str) -> None:
    assert "<script" not in text
    for address in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert address.startswith(("data:", "#")), address[:100]
    for address in re.findall(r"url\(([^)]*)\)", text):
        assert address.startswith("#"), address
    assert "@import" not in text and "Content-Security-Policy" in text
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    for address in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', text):
        assert "".join(address) in ids


def test_the_title_names_the_directories(text: str) -> None:
    assert "<title>comparison</title>" in text and "<h1>comparison</h1>" in text
    assert "7 runs in 4 groups: digits, dirichlet(0.1), mlp, 6 agents, 60 steps." in text


def test_results_are_means_and_deviations(text: str, everything: Path) -> None:
    titles, *lines = cells_of(element(text, "results"))
    assert titles[:3] == ["algorithm", "topology", "runs"]
    found = {tuple(line[:2]): dict(zip(titles, line, strict=True)) for line in lines}
    last = [rows_of(everything / "cells" / f"qsaddle-{s}")[-1] for s in (0, 1)]
    accuracies = [100 * row["consensus_accuracy"] for row in last]
    line = found["qsaddle", "ring"]
    spread = np.std(accuracies, ddof=1)
    assert line["consensus accuracy %"] == f"{np.mean(accuracies):.2f} ± {spread:.2f}"
    assert line["MB sent an agent"] == "2.4" and line["gradients an agent"] == "120"
    assert line["SAM sharpness"] == "0.0123" and line["runs"] == "2"
    only = 100 * rows_of(everything / "cells" / "dsgd-0")[-1]["consensus_accuracy"]
    assert found["dsgd", "ring"]["runs"] == "2, 1 diverged"
    assert found["dsgd", "ring"]["consensus accuracy %"] == f"{only:.2f}"
    assert found["dsgd", "ring"]["gradients an agent"] == "-"
    assert found["qgm", "torus:2x3"]["MB sent an agent"] == "1.8"


def test_what_is_not_there_is_told(text: str) -> None:
    for sentence in (
        "comparison: 1 of its runs have not begun.",
        "1 further runs, not shown, chose on validation data",
        "algorithm qgm: lr 0.1 (90.00% on validation data; lr at the edge of the candidates).",
        "dsgd, ring, seed 1: diverged at step 23: agent 3: &lt;nan&gt;.",
        "qgm, torus:2x3, seed 0: at step 30 of 60.",
        "Thin lines that end in a cross are runs that diverged.",
        "Runs evaluated at different steps are interpolated between them.",
        "Lines are means over 1 to 2 runs, bands one standard deviation.",
    ):
        assert sentence in text, sentence


def test_captions_of_data_and_topology(text: str) -> None:
    assert "ring: 6 agents, 6 links, 2 neighbors each, spectral gap 0.3333." in text
    assert "torus:2x3: 6 agents, 9 links, 3 neighbors each" in text
    assert "Open ends at a border meet at the opposite one." in text
    caption = element(text, "class-heat-map")
    assert "dirichlet(0.1), seed 0" in caption and "dirichlet(0.1), seed 1" in caption
    assert "classes an agent" in caption


def test_options_and_surroundings(text: str) -> None:
    differing = cells_of(element(text, "differing"))
    assert differing[0] == ["group", "algorithm", "topology"]
    assert ["qgm, torus:2x3", "qgm", "torus:2x3"] in differing
    assert "<dt>alpha</dt><dd>0.1</dd>" in text and "<dt>nesterov</dt><dd>no</dd>" in text
    (line,) = cells_of(element(text, "surroundings"))[1:]
    assert line[0] == "x86_64 AVX2" and "torch 2.13.0" in line[4] and line[-1] == "7"
    assert "native: consensus; reference: gossip_step" in line[5]


def test_equal_runs_give_equal_figures(everything: Path) -> None:
    runs = [read(everything / "cells" / f"qgm-{s}") for s in (0, 1)]
    groups = group(runs, set())
    first, second = ((split_figures.draw(runs), topology_figures.draw(groups)) for _ in range(2))
    assert first == second


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PROBE = """
<script>
addEventListener("error", e => document.documentElement.dataset.error = e.message, true);
// pictures inside drawings become pictures of the page, whose load event then waits for them
addEventListener("DOMContentLoaded", () => {
  for (const inner of document.querySelectorAll("svg image")) {
    const img = new Image();
    img.src = inner.getAttribute("xlink:href") || inner.getAttribute("href");
    img.hidden = true;
    document.body.append(img);
  }
});
addEventListener("load", () => {
  const sizes = [];
  for (const img of document.images) sizes.push(img.complete ? img.naturalWidth : -1);
  const drawn = {};
  for (const figure of document.querySelectorAll("figure")) {
    drawn[figure.id] = [...figure.querySelectorAll("svg[role=img]")].map(svg => {
      const box = svg.getBoundingClientRect(), place = figure.getBoundingClientRect();
      const paths = [...svg.querySelectorAll("path, use")];
      const inside = box.left >= place.left && box.right <= place.right + 1;
      return {width: box.width, height: box.height, paths: paths.length, inside: inside};
    });
  }
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const result = {sizes: sizes, drawn: drawn, overflow: wide};
  document.documentElement.dataset.probe = JSON.stringify(result);
});
</script>
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    if not found:
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    profile = tmp_path_factory.mktemp("browser")
    return [
        *(found[0], "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"),
        *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=60000"),
    ]


def show(browser: list[str], path: Path, *arguments: str) -> tuple[str, str]:
    """The DOM after loading a page, and what the page's console said."""
    command = [*browser, *arguments, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "</html>" in done.stdout, done.stderr
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(said)


def test_a_browser_reports_no_error(browser: list[str], written: Path) -> None:
    dom, said = show(browser, written)
    assert not said
    assert all(f'id="{name}"' in dom for name in (*FIGURES, *TABLES))


@pytest.mark.parametrize("width", [1200, 420])
def test_a_browser_shows_every_picture(
    browser: list[str], written: Path, text: str, width: int
) -> None:
    # the page's own policy allows no script, so a copy without it is looked at
    probed = written.with_name(f"probed-{width}.html")
    probed.write_text(re.sub(r"<meta http-equiv[^>]*>", PROBE, text, count=1))
    dom, said = show(browser, probed, f"--window-size={width},900")
    assert not said and "data-error" not in dom
    match = re.search(r'data-probe="([^"]*)"', dom)
    assert match is not None
    result = json.loads(html.unescape(match[1]))
    # two heat maps with their color bars, two surfaces
    assert len(result["sizes"]) == 6 and all(size > 0 for size in result["sizes"])
    assert result["overflow"] <= 0
    for name in FIGURES:
        drawings = result["drawn"][name]
        assert drawings, name
        for drawing in drawings:
            assert drawing["width"] > 150 and drawing["height"] > 100, name
            assert drawing["paths"] > 5 and drawing["inside"], name


SORT = """
<script>
addEventListener("load", () => {
  const names = () => [...document.querySelectorAll("#results tbody tr")]
    .map(row => [row.getBoundingClientRect().top, row.cells[0].textContent + " " + row.cells[1].textContent])
    .sort((a, b) => a[0] - b[0]).map(pair => pair[1]);
  const found = [names()];
  const click = selector => { document.querySelector(selector).click(); found.push(names()); };
  click("#results-by-3");
  click(".sortable .reverse");
  click("#results-by-0");
  click(".sortable button");
  const header = document.querySelector("#results thead tr").getBoundingClientRect().top;
  const first = document.querySelector("#results tbody tr").getBoundingClientRect().top;
  document.documentElement.dataset.probe = JSON.stringify({orders: found, above: header < first});
});
</script>
"""


@pytest.mark.parametrize("width", [1200, 420])
def test_a_table_sorts_without_a_script(
    browser: list[str], written: Path, text: str, width: int
) -> None:
    probed = written.with_name(f"sorted-{width}.html")
    probed.write_text(re.sub(r"<meta http-equiv[^>]*>", SORT, text, count=1))
    dom, said = show(browser, probed, f"--window-size={width},900")
    match = re.search(r'data-probe="([^"]*)"', dom)
    assert not said and match is not None
    result = json.loads(html.unescape(match[1]))
    titles, *lines = cells_of(element(text, "results"))
    assert titles[3] == "consensus accuracy %" and result["above"]
    given = [" ".join(line[:2]) for line in lines]
    accuracy = {" ".join(line[:2]): float(line[3].split()[0]) for line in lines}
    by_accuracy = sorted(given, key=lambda name: -accuracy[name])
    by_name = sorted(given, key=lambda name: name.split()[0])
    as_given, best_first, worst_first, backwards, reset = result["orders"]
    assert as_given == given == reset and by_accuracy != given
    assert best_first == by_accuracy and worst_first == by_accuracy[::-1]
    assert backwards == by_name[::-1]


def test_values_are_under_the_pointer(text: str, everything: Path) -> None:
    """Every band over the accuracies tells the values of all curves at its step."""
    drawing = element(text, "learning-curves")
    titles = [
        html.unescape(t) for t in re.findall(r"<rect [^>]*><title>(.*?)</title>", drawing, re.S)
    ]
    (last,) = (t for t in titles if t.startswith("step 60\n"))
    rows = [rows_of(everything / "cells" / f"qsaddle-{s}")[-1] for s in (0, 1)]
    accuracies = [100 * row["consensus_accuracy"] for row in rows]
    spread = np.std(accuracies, ddof=1)
    assert f"qsaddle, ring {np.mean(accuracies):.2f} ± {spread:.2f} %" in last.splitlines()
    assert len(titles) > 8 and len({t.splitlines()[0] for t in titles}) == len(titles)
    assert "<title>" in element(text, "ranking") and "<title>" in element(
        text, "consensus-distance"
    )


def test_curves_over_seeds(tmp_path: Path, seed: int) -> None:
    paths = [make_run(tmp_path / str(s), s) for s in range(3)]
    (g,) = groups_of(*paths)
    assert g.label == "run" and len(g.runs) == 3
    values = np.array([[row["loss"] for row in rows_of(path)] for path in paths])
    curve = curves.over_steps(g, "loss")
    assert curve.x.tolist() == [0, 10, 20, 30, 40, 50, 60] and curve.runs == 3
    assert np.allclose(curve.mean, values.mean(0))
    assert np.allclose(curve.deviation, values.std(0, ddof=1))
    assert not curves.are_interpolated(g)
    sent = curves.over_bytes(g, "loss")
    assert np.allclose(sent.x, curve.x * 0.04) and np.allclose(sent.mean, curve.mean)


def test_curves_of_unequal_steps_by_hand(tmp_path: Path) -> None:
    for s, steps, values in (
        (0, (0, 10, 20), (4.0, 2.0, None)),
        (1, (0, 5, 10, 15), (0.0, 1.0, 4.0, 6.0)),
        (2, (0, 4), (8.0, 9.0)),
    ):
        make_run(tmp_path / str(s), s)
        row = rows_of(tmp_path / str(s))[0] | {"bytes_sent": 0}
        pairs = zip(steps, values, strict=True)
        write_rows(tmp_path / str(s), [row | {"step": t, "loss": v} for t, v in pairs])
    (g,) = groups_of(tmp_path / "0", tmp_path / "1")
    curve = curves.over_steps(g, "loss")
    assert curve.x.tolist() == [0, 5, 10, 15]
    # between 2.0 and a value that was not finite nothing is known
    assert np.allclose(curve.mean, [2, 2, 3, np.nan], equal_nan=True)
    half = np.sqrt(0.5)
    assert np.allclose(curve.deviation, [4 * half, 2 * half, 2 * half, np.nan], equal_nan=True)
    assert curves.are_interpolated(g)
    (tmp_path / "2" / "diverged.json").write_text('{"step": 5, "message": "nan"}')
    (g,) = groups_of(tmp_path / "0", tmp_path / "2")
    curve = curves.over_steps(g, "loss")
    assert curve.runs == 1 and np.allclose(curve.mean[:2], [4, 2])
    assert [[a.tolist() for a in end] for end in curve.ends] == [[[0, 4], [8, 9]]]


def test_all_runs_diverged(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", 0, until=20)
    (path / "diverged.json").write_text('{"step": 23, "message": "a gradient was not finite"}')
    make_checkpoint(path)
    out = page.write([path], tmp_path / "page.html", samples=5, points=3)
    content = out.read_text()
    assert "all of its runs diverged" in element(content, "loss-surface")
    assert cells_of(element(content, "runs"))[1][-1] == "diverged"
    assert "run, seed 0: diverged at step 23: a gradient was not finite." in content


def test_groups_are_told_apart_by_few_options(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / f"{a}{alpha}{s}", s, algorithm=a, alpha=alpha, lr=lr, threads=s + 1)
        for a, lr in (("dsgd", 0.3), ("qgm", 0.1))
        for alpha in (0.1, 10.0)
        for s in (0, 1)
    ]
    groups = groups_of(*paths)
    labels = [f"{a}, alpha {alpha}" for a in ("dsgd", "qgm") for alpha in ("0.1", "10")]
    assert [g.label for g in groups] == [g.curve for g in groups] == labels
    assert all(len(g.runs) == 2 and g.panel == "" for g in groups)
    # an lr for each alpha tells as much as alpha, which is named where lr was tuned
    paths = [
        make_run(tmp_path / f"lr{lr}", 0, alpha=alpha, lr=lr)
        for alpha, lr in ((0.1, 0.2), (1.0, 0.4))
    ]
    assert [g.label for g in groups_of(*paths, tuned=("lr",))] == ["alpha 0.1", "alpha 1"]
    assert [g.label for g in groups_of(*paths, tuned=("alpha",))] == ["lr 0.2", "lr 0.4"]


def test_many_groups_get_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [
        make_run(tmp_path / f"{a}{alpha}", 0, every=30, algorithm=a, alpha=alpha)
        for a in ("dsgd", "qgm")
        for alpha in (0.01, 0.1, 1.0, 10.0)
    ]
    for path in paths:
        write_rows(path, [{**row, "compression_error": 0.3} for row in rows_of(path)])
    groups = groups_of(*paths)
    assert {g.curve for g in groups} == {"dsgd", "qgm"}
    titles = ["alpha 0.01", "alpha 0.1", "alpha 1", "alpha 10"]
    assert [g.panel for g in groups] == 2 * titles
    monkeypatch.setattr(curve_drawing, "MOST_PANELS", 2)
    (picture,) = curve_figures.draw_compression_error(groups)
    assert [panel.title for panel in picture.panels] == titles[:2]
    assert [key.label for key in picture.keys] == ["dsgd", "qgm"]
    assert "Where no compressor is used it is zero by definition." in picture.caption
    assert picture.caption.endswith("Not shown: alpha 1; alpha 10.")


def test_one_run_twice_counts_once(everything: Path) -> None:
    cells = everything / "cells"
    runs, comparisons = read_all([cells / "qgm-0", everything, cells / ".." / "cells" / "qgm-0"])
    assert len(runs) == 7 and runs[0].path == cells / "qgm-0"
    assert [c.missing for c in comparisons] == [1]


def test_a_run_in_use_can_be_read(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", 0, until=30)
    with (path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 40, "loss"')
    in_use = RunDirectory(path)
    assert [row["step"] for row in read(path).rows] == [0, 10, 20, 30]
    assert in_use.config == read(path).record


def test_names_are_escaped(tmp_path: Path) -> None:
    path = make_run(tmp_path / "<b>& 'run'", 0)
    content = page.write([path], tmp_path / "page.html", surface=False).read_text()
    assert "<b>" not in content and "&lt;b&gt;&amp; &#39;run&#39;" in content
    assert 'id="loss-surface"' not in content


def test_splits_differ_in_options_first(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / f"{alpha}-{s}", s, alpha=alpha)
        for alpha in (0.1, 1.0, 10.0)
        for s in (0, 1, 2)
    ]
    runs = [read(path) for path in [*paths, paths[0]]]
    picture = split_figures.draw(runs)
    shown = ["dirichlet(0.1), seed 0", "dirichlet(0.1), seed 1", "dirichlet(1), seed 0"]
    assert [p.title for p in picture.panels] == [*shown, "dirichlet(10), seed 0"]
    assert "Not shown: dirichlet(0.1), seed 2; dirichlet(1), seed 1;" in picture.caption
    counts = np.array(json.loads((paths[0] / "partition.json").read_text())["counts"])
    mean = np.mean([np.count_nonzero(row) for row in counts])
    assert f"dirichlet(0.1), seed 0: {mean:.1f} classes an agent" in picture.caption
    (paths[0] / "partition.json").unlink()
    assert split_figures.draw([read(paths[0])]).caption == "No run has a partition.json."


def test_heat_maps_of_many_agents_and_long_names(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", 0, agents=300)
    content = {"classes": [f"a long name {i}" for i in range(40)], "counts": [[1] * 40] * 300}
    (path / "partition.json").write_text(json.dumps(content))
    assert len(split_figures.draw([read(path)]).panels) == 1


@pytest.mark.parametrize(
    ("text", "agents", "said"),
    [
        ("ring", 1, "1 agent, 0 links, 0 neighbors each, spectral gap 1."),
        ("ring", 301, "301 agents, 301 links, 2 neighbors each"),
        ("torus:9x30", 270, "540 links, 4 neighbors each"),
        ("star", 12, "11 links, 1 to 11 neighbors each"),
        ("fully-connected", 70, "2,415 links, 69 neighbors each, spectral gap 1."),
        ("fully-connected", 320, "51,040 links, 319 neighbors each, spectral gap 1. Its links are"),
        ("social-network", 32, "89 links"),
        ("dyck", 32, "48 links, 3 neighbors each"),
        ("random-regular:3:5", 230, "345 links, 3 neighbors each"),
        ("erdos-renyi:0.05:1", 210, "210 agents"),
        ("one-peer-exponential", 16, "56 links, 7 neighbors each, consensus rate 0 a round over"),
        ("base-graph:2", 25, "its period of 6. Drawn are the links of all rounds; in one round"),
        ("matchings:3", 7, "over 200 rounds, an estimate. Drawn are the links of all rounds"),
        ("matcha:0.5:torus", 12, "hears at most 4 neighbors."),
    ],
)
def test_topologies(tmp_path: Path, text: str, agents: int, said: str) -> None:
    path = make_run(tmp_path / "run", 0, topology=text, agents=agents, every=60)
    picture = topology_figures.draw(groups_of(path))
    assert f"{text}: " in picture.caption and said in picture.caption
    assert len(picture.panels) == 1


def test_many_topologies(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / f"{n}", 0, agents=n, every=60) for n in range(3, 9)]
    picture = topology_figures.draw(groups_of(*paths))
    assert [p.title for p in picture.panels] == [f"ring, {n} agents" for n in range(3, 7)]
    assert picture.caption.endswith("Not shown: ring of 7; ring of 8.")


def test_a_torus_has_stubs(tmp_path: Path) -> None:
    graph = topology.torus(3, 4)
    places = topology_figures._positions(graph)
    segments = topology_figures._segments(graph, np.array([places[i] for i in range(12)]), set())
    # 24 links, of which 3 + 4 go around and are two stubs each
    assert len(segments) == 24 + 7
    assert max(np.abs(s[1] - s[0]).max() for s in segments) == 1


@pytest.mark.parametrize(
    ("graph", "arrows", "lines"),
    [
        (topology.directed_ring(5), {(i, (i + 1) % 5) for i in range(5)}, 0),
        # 0 and 4, 1 and 5 ... hear each other
        (
            topology.one_peer_exponential(8).union,
            {(i, (i + hop) % 8) for i in range(8) for hop in (1, 2)},
            4,
        ),
        (topology.ring(6), set(), 6),
        # too many for arrows
        (topology.directed_ring(301), set(), 301),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_every_link_is_drawn_whichever_way_it_points(
    graph: topology.Topology, arrows: set[tuple[int, int]], lines: int
) -> None:
    assert topology_figures._arrows(graph) == arrows
    places = np.random.default_rng(0).random((graph.agents, 2))
    assert len(topology_figures._segments(graph, places, arrows)) == lines
    assert graph.edges == len(arrows) + lines
    patches = topology_figures._draw(graph).axes[0].patches
    assert len(patches) == len(arrows)


def test_arrows_are_told(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", 0, topology="directed-ring", agents=6, every=60)
    told = "Arrows point from who sends to who hears."
    assert told in topology_figures.draw(groups_of(path)).caption
    path = make_run(tmp_path / "other", 0, agents=6, every=60)
    assert told not in topology_figures.draw(groups_of(path)).caption


@pytest.fixture
def trained(tmp_path: Path) -> Run:
    path = make_run(tmp_path / "trained", 3, algorithm="qsaddle")
    make_checkpoint(path)
    return read(path)


def test_the_surface_is_that_of_the_average(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = surfaces.surface(trained, 40, 5, None)
    assert found.step == 60 and found.loss.shape == (5, 5)
    dataset = digits(device=torch.device("cpu"))
    (tensors, _, _) = checkpoint.load(trained.path / "checkpoint-60.safetensors")
    stack = initial_models.build_stack(trained.config, dataset, torch.device("cpu"))
    stack.x.copy_(tensors["x"].double().mean(0).float().expand_as(stack.x))
    order = np.random.default_rng(surfaces.SEED).permutation(len(dataset.train_labels))[:40]
    outputs = stack.agent(0)(dataset.train_inputs[order])
    expected = F.cross_entropy(outputs, dataset.train_labels[order]).item()
    assert found.loss[2, 2] == pytest.approx(expected, rel=1e-5)
    assert len(np.unique(found.loss)) == 25

    def fail(*arguments: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(surfaces.sharpness, "loss_surface", fail)
    assert np.array_equal(surfaces.surface(trained, 40, 5, None).loss, found.loss)
    for samples, points in ((41, 5), (40, 3)):
        with pytest.raises(AssertionError, match="computed again"):
            surfaces.surface(trained, samples, points, None)
    make_other = checkpoint.load(trained.path / "checkpoint-60.safetensors")[0]["x"] + 1
    checkpoint.save(trained.path, {"x": make_other}, 60, {})
    with pytest.raises(AssertionError, match="computed again"):
        surfaces.surface(trained, 40, 5, None)


def test_the_section_says_why_there_is_no_surface(trained: Run) -> None:
    def caption() -> str:
        picture = surface_figures.draw(groups_of(trained.path), 10, 3, None)
        assert not picture.panels
        return picture.caption

    path = trained.path / "checkpoint-60.safetensors"
    surfaces.surface(trained, 10, 3, None)
    (kept,) = trained.path.glob("surface-*.npz")
    kept.write_bytes(b"PK nothing")
    assert f"None for run: {kept.name} is damaged, delete it" in caption()
    with kept.open("wb") as stream:
        np.savez(stream, loss=np.array([{}], dtype=object))
    assert "never done" in caption()
    kept.unlink()
    checkpoint.save(trained.path, {"x": torch.ones(2, 3)}, 60, {})
    assert "must hold x of shape (6, " in caption()
    path.write_bytes(b"half")
    assert "is not a whole checkpoint" in caption()
    path.unlink()
    assert f"None for run: {trained.name} has no checkpoint." in caption()


def test_no_surface_comes_from_outside_of_a_run(trained: Run, tmp_path: Path) -> None:
    """Neither by a checkpoint nor by a kept surface that is a link, which a page would show as the run's."""

    def caption() -> str:
        picture = surface_figures.draw(groups_of(trained.path), 10, 3, None)
        assert not picture.panels
        assert str(tmp_path) not in picture.caption
        return picture.caption

    surfaces.surface(trained, 10, 3, None)
    (kept,) = trained.path.glob("surface-*.npz")
    whole = trained.path / "checkpoint-60.safetensors"
    for path in (kept, whole):
        outside = tmp_path / path.name
        path.rename(outside)
        path.symlink_to(outside)
        before = outside.read_bytes()
        with pytest.raises(ValueError, match=f"{path.name} leads out of .*, and is not read"):
            surfaces.surface(trained, 10, 3, None)
        assert f"{path.name} leads out of" in caption()
        assert outside.read_bytes() == before
        path.unlink()
        outside.rename(path)
    assert surface_figures.draw(groups_of(trained.path), 10, 3, None).panels


def test_missing_data_are_told(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", 0, dataset="fashion-mnist", data_dir=tmp_path / "nowhere")
    checkpoint.save(path, {"x": torch.ones(6, 3)}, 60, {})
    caption = surface_figures.draw(groups_of(path), 10, 3, None).caption
    assert "Could not be computed." in caption and "nowhere" in caption
    assert str(tmp_path) not in caption
    caption = surface_figures.draw(groups_of(path), 10, 3, tmp_path / "elsewhere").caption
    assert "elsewhere" in caption and str(tmp_path) not in caption


def test_surfaces_are_of_a_method_and_its_counterpart(tmp_path: Path) -> None:
    def pair(*names: str) -> list[str]:
        paths = [make_run(tmp_path / f"{names}" / name, 0, algorithm=name) for name in names]
        return [g.label for g in surface_figures._pair(groups_of(*paths))]

    assert pair("dsgd", "dsgdm", "qgm", "dsaddle") == ["dsaddle", "dsgd"]
    assert pair("dsgd", "qgm", "dsaddle", "qsaddle") == ["qsaddle", "qgm"]
    assert pair("qgm", "dsgd", "qsaddle") == ["qsaddle", "qgm"]
    assert pair("dsgdm", "dsgd", "qsaddle") == ["dsgdm", "dsgd"]
    assert pair("qsaddle") == ["run"]
    paths = [
        make_run(tmp_path / f"{a}{alpha}", 0, algorithm=a, alpha=alpha)
        for a, alpha in (("qgm", 0.1), ("qgm", 10.0), ("qsaddle", 10.0))
    ]
    labels = [g.label for g in surface_figures._pair(groups_of(*paths))]
    assert labels == ["qsaddle, alpha 10", "qgm, alpha 10"]
    for path in (paths[0], paths[2]):
        checkpoint.save(path, {"x": torch.ones(2, 3)}, 60, {})
    labels = [g.label for g in surface_figures._pair(groups_of(*paths))]
    assert labels == ["qsaddle, alpha 10", "qgm, alpha 0.1"]


def test_surfaces_share_their_levels() -> None:
    random = np.random.default_rng(0)
    first, second = 1 + random.random((5, 5)), 2 + random.random((5, 5))
    second[0, 0] = np.inf
    levels, norm = surface_figures._levels([first, second])
    assert levels[0] == first.min() and levels[-1] == second[np.isfinite(second)].max()
    assert (norm.vmin, norm.vmax) == (levels[0], levels[-1])
    levels, _ = surface_figures._levels([first, 1000 * second])
    assert np.allclose(levels[1:] / levels[:-1], levels[1] / levels[0])
    flat, _ = surface_figures._levels([np.ones((3, 3))])
    assert (np.diff(flat) > 0).all()
    nothing, _ = surface_figures._levels([np.full((3, 3), np.nan)])
    assert (np.diff(nothing) > 0).all()


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A page of before, which no error may touch."""
    path = tmp_path / "page.html"
    path.write_text("before")
    yield path
    assert path.read_text() == "before"


def test_wrong_arguments(tmp_path: Path, out: Path) -> None:
    run = make_run(tmp_path / "run", 0)
    with pytest.raises(ValueError, match="at least one directory"):
        page.write([], out)
    with pytest.raises(ValueError, match="samples must be >= 1, got 0"):
        page.write([run], out, samples=0)
    for points in (1, 4):
        with pytest.raises(ValueError, match=f"points must be odd and >= 3, got {points}"):
            page.write([run], out, points=points)
    with pytest.raises(ValueError, match="needs the name of a file, got the directory"):
        page.write([run], tmp_path)
    for neither in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=f"{neither} is neither a run .* nor a comparison"):
            page.write([run, neither], out)


def test_damaged_files(tmp_path: Path, out: Path) -> None:
    run = make_run(tmp_path / "run", 0)
    for name, content, message in (
        ("partition.json", "{", "partition.json is damaged"),
        ("metrics.jsonl", '{"step": 0}\n{"step\n{"step": 2}\n', "metrics.jsonl is damaged"),
        ("metrics.jsonl", "", "no run has been evaluated yet in"),
        ("config.json", "[1]", "config.json must hold values by name, got list"),
        ("config.json", '{"agents": 3}', "config.json lacks algorithm, steps"),
        ("config.json", "{", "config.json is damaged"),
        ("compare.json", "{}", "compare.json lacks cells"),
        ("compare.json", "{", "compare.json is damaged"),
    ):
        path = run / name
        before = path.read_text() if path.exists() else None
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            page.write([run], out)
        if before is not None:
            path.write_text(before)


def test_nothing_outside_of_a_comparison_is_shown(tmp_path: Path, out: Path) -> None:
    comparison = make_comparison(tmp_path / "c", {"a": {"seed": 0}})
    secret = tmp_path / "secret.png"
    secret.write_bytes(PIXEL)
    picture = comparison / "comparison.png"
    picture.symlink_to(secret)
    with pytest.raises(ValueError, match=r"comparison\.png leads out of .*, and is not read"):
        page.write([comparison], out)
    picture.unlink()
    picture.write_text("no picture")
    with pytest.raises(ValueError, match=r"comparison\.png is no PNG"):
        page.write([comparison], out)
    picture.unlink()
    other = make_run(tmp_path / "other", 1)
    (comparison / "cells" / "link").symlink_to(other)
    for name in ("../other", str(other), "cells/../../other", "cells/link"):
        content = {"cells": [{"directory": "cells/a"}, {"directory": name}]}
        (comparison / "compare.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="leads out of"):
            page.write([comparison], out)
    for name in ("config.json", "metrics.jsonl", "partition.json"):
        run = make_run(tmp_path / f"run-{name}", 0)
        (run / name).unlink()
        (run / name).symlink_to(other / name)
        with pytest.raises(ValueError, match=f"{name} leads out of"):
            page.write([run], out)


def test_a_directory_that_is_a_link_itself_is_read(tmp_path: Path) -> None:
    comparison = make_comparison(tmp_path / "c", {"a": {"seed": 0}})
    (comparison / "comparison.png").write_bytes(PIXEL)
    (tmp_path / "link").symlink_to(comparison)
    page.write([tmp_path / "link"], tmp_path / "page.html", surface=False)


@pytest.mark.parametrize("name", [r"$\bad$", "$a$ $", "a$b", "$", r"\$x$", "<b>&--"])
def test_names_of_classes_are_drawn_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", 0)
    content = json.loads((run / "partition.json").read_text())
    content["classes"][4] = name
    (run / "partition.json").write_text(json.dumps(content))
    drawn: list[Figure] = []
    whole = split_figures.to_svg
    monkeypatch.setattr(
        split_figures, "to_svg", lambda figure, *a: drawn.append(figure) or whole(figure, *a)
    )
    page.write([run], tmp_path / "page.html", surface=False)
    label = drawn[0].axes[0].get_xticklabels()[4]
    text, is_math = label._preprocess_math(label.get_text())
    assert (text, is_math) == (name, False)
    partition = PartitionStatistics(np.array(content["counts"]), 1.0, 1.0)
    plots.draw_classes(tmp_path / "a.png", partition, tuple(content["classes"]), f"{name}\nrun")
    plots.draw_curves(tmp_path / "b.png", rows_of(run), f"{name}\nrun")


def test_ten_million_agents_are_not_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 0)
    record = json.loads((run / "config.json").read_text()) | {"agents": 10_000_000}
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="counts must be 10000000 rows of 10 numbers"):
        read(run)
    (run / "partition.json").unlink()
    checkpoint.save(run, {"x": torch.ones(6, 3)}, 60, {})
    begin = time.monotonic()
    text = page.write([run], tmp_path / "page.html", points=3, samples=10).read_text()
    assert time.monotonic() - begin < 60
    assert "ring: 10,000,000 agents, too many to be drawn." in html.unescape(text)
    assert "must hold x of shape (10000000, ...)" in text


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("partition.json", "{}", "partition.json lacks classes, counts"),
        ("partition.json", '{"classes": [1], "counts": []}', r"classes\[0\] must be str, got 1"),
        ("partition.json", '{"classes": ["a"], "counts": [[1]]}', "must be 6 rows of 1 numbers"),
        ("partition.json", '{"classes": [], "counts": [[], [], [], [], [], []]}', "must be 6 rows"),
        ("compare.json", '{"cells": [{}]}', r"compare.json: cells\[0\] lacks directory"),
        (
            "compare.json",
            '{"cells": [{"directory": 5}]}',
            r"cells\[0\].directory must be str, got 5",
        ),
        ("compare.json", '{"cells": 5}', "cells must be a list, got 5"),
        ("compare.json", '{"cells": [], "chosen": [{}]}', r"chosen\[0\] lacks accuracy, edges"),
        ("compare.json", '{"cells": [], "tuning": 4}', "tuning must be a list, got 4"),
        (
            "compare.json",
            '{"cells": [], "chosen": [{"when": {"algorithm": 5}, "values": {}, "accuracy": 1, "edges": []}]}',
            r"chosen\[0\].when: algorithm must be str, got 5",
        ),
        ("metrics.jsonl", "{}\n", "metrics.jsonl is damaged: line 1 lacks bytes_sent"),
        ("metrics.jsonl", "5\n", "metrics.jsonl: line 1 must hold values by name, got int"),
        ("diverged.json", '{"step": "a"}', "diverged.json lacks message"),
        ("sharpness.json", '{"top_eigenvalue": []}', r"top_eigenvalue must be .*, got \[\]"),
        ("config.json", '{"algorithm": "qgm", "agents": "6", "steps": 3}', "agents must be int"),
        ("config.json", '{"algorithm": "qgm", "agents": 0, "steps": 3}', "--agents must be >= 1"),
    ],
)
def test_faults_of_files_name_file_and_key(
    name: str, content: str, rule: str, tmp_path: Path, out: Path
) -> None:
    run = make_run(tmp_path / "run", 0)
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=rule) as error:
        page.write([run], out)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_the_surface_is_of_the_last_whole_checkpoint(trained: Run) -> None:
    found = surfaces.surface(trained, 10, 3, None)
    (trained.path / "checkpoint-70.safetensors").write_bytes(b"half")
    assert np.array_equal(surfaces.surface(trained, 10, 3, None).loss, found.loss)
    (kept,) = trained.path.glob("surface-*.npz")
    np.savez(kept, loss=np.ones((5, 5)))
    with pytest.raises(ValueError, match=r"is damaged, delete it: loss is float64 \[5, 5\]"):
        surfaces.surface(trained, 10, 3, None)
