"""Every figure that pages quote in their sentences comes from a committed file, or is a setting that is named here.

`SAID` has what pages say, made from the files; what is left of a page must hold no figure of a measurement. Tables and
other text between marks are written from the files (test_benchmark_report.py).
"""

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.kernels.test_launches import LAUNCHES

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
# docs/ops.md is made of docstrings, whose figures are contracts that tests hold
PAGES = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
    if path.name != "ops.md"
]
UNIT = (
    r"(?:%|(?:percent|points?|ms|milliseconds|[KMG]i?B)\b"
    r"|(?:times|x) (?:as|fewer|more|less|faster|slower|flatter|larger|smaller|longer)\b)"
)
FIGURE = re.compile(rf"\d[\d,.]*(?:(?: to| and| or|,) \d[\d,.]*)* ?{UNIT}|± ?\d")
DECIMAL = re.compile(r"\d+\.\d+")
# what is chosen, defined or published, not measured: by page, or anywhere
SETTINGS = {
    "": (r"100 % is the speed", r"100 percent is the speed"),
    "evidence.md": (
        # schedules, shares of links, rates, radii, alphas, and what the options of a method are
        *(r"x 0\.1 after 50% and 75%", r"(?:with |with nothing |\* ?)?30% (?:of|down)"),
        *(r"momentum 0\.9", r"[Rr]ate of 0\.03, 0\.1 or 0\.3", r"rho of 0\.05(?:, 0\.1)? or 0\.[12]"),
        *(r"alphas? 0\.\d+", r"alpha\s0\.1 and 0\.01", r"Dirichlet 0\.1(?: and 0\.01)?", r"rho 0\.\d+"),
        *(r"radius of 0\.05", r"strength of 0\.2", r"LookSAM with 0\.7", r"learning rate 0\.1"),
        *(r"at 0\.1\b", r"at 0\.01\b", r"at 0\.3\b", r"with 0\.1 reached", r"falls at 0\.5"),
        *(r"0\.3 lay at the edge there, so 0\.1 beside it", r"perceptron [\d-]+"),
        # arXiv numbers, and what the abstract of one says
        *(r"arXiv \d+\.\d+", r"gains of 1 to 20 points"),
    ),
    "measured.md": (r"buffers of 1 MB to 8 GB",),
    **{name: (r"top-k of 10 percent",) for name in ("methods.md", "compressors.md")},
    # computed from the graphs (test_graph_pictures.py)
    "graphs.md": (r"gossips to 1 %",),
    "command-line.md": (r"interval is one of 95 %",),
    "questions.md": (
        # radii to try, consensus steps, gaps that the graphs have, gradients a step of the options of a method
        *(r"Begin with 0\.05, and try 0\.1\.", r"such as 0\.3", r"momentum-SAM 0\.3", r"\| 1\.2 \|"),
        *(r"in the simulator 1\.5", r"spectral gap 0\.05", r"a smaller one, 0\.1 to 0\.4"),
        *(r"0\.4 for signs, 0\.2 for top-k of 10 percent, 0\.1 for 2 bits", r"accuracy of 10%"),
        *(r"My accuracy is 10 percent", r"at their momentum of 0\.9"),
    ),
}  # fmt: skip

Row = dict[str, str]


def rows(name: str) -> list[Row]:
    with (BENCHMARKS / "reproduction" / name / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def prose(page: Path) -> str:
    """Sentences alone: no code, no text between marks, spaces for line breaks."""
    text = re.sub(
        r"<!-- measured: (?!end).*?<!-- measured: end -->", "", page.read_text(), flags=re.DOTALL
    )
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return " ".join(re.sub(r"`[^`]*`", "", text).split())


def percents(row: Row, name: str = "accuracy") -> float:
    return 100 * float(row[name])


def ahead(ours: Row, other: Row) -> str:
    """By how many points."""
    return f"{percents(ours) - percents(other):.1f}"


def is_alike(one: Row, other: Row) -> bool:
    """Whether they differ by less than the larger deviation."""
    deviation = max(percents(row, "accuracy_deviation") for row in (one, other))
    return abs(percents(one) - percents(other)) < deviation


def fashion_mnist() -> Iterable[str]:
    found = {(r["algorithm"], r["alpha"]): r for r in rows("fashion_mnist")}
    yield f"The table is of {sum(int(r['runs']) for r in found.values())} runs; every run is"
    alphas = ("0.1", "0.01", "0.001")

    def points(ours: str, other: str) -> list[str]:
        return [ahead(found[ours, alpha], found[other, alpha]) for alpha in alphas]

    _, *gains = points("qsaddle", "qgm")
    yield f"Q-SADDLe is ahead of QGM under strong heterogeneity, by {gains[0]} and {gains[1]} points"
    ours, other = found["qsaddle", "0.001"], found["qgm", "0.001"]
    mean, worst = (
        [f"{percents(row, name):.1f}" for row in (ours, other)]
        for name in ("mean_accuracy", "worst_accuracy")
    )
    yield (
        f"({mean[0]} against {mean[1]} percent on average at alpha 0.001, worst agent "
        f"{worst[0]} against {worst[1]})"
    )
    gains = points("dsaddle", "dsgd")
    yield f"D-SADDLe is ahead of DSGD by {gains[0]}, {gains[1]} and {gains[2]} points"
    yield (f"the {gains[1]} points of D-SADDLe at alpha 0.01 are within one deviation")
    assert is_alike(found["dsaddle", "0.01"], found["dsgd", "0.01"])
    gains = points("qgm", "dsgdm")
    yield f"QGM is ahead of local momentum by {gains[0]}, {gains[1]} and {gains[2]} points"
    most = max(percents(found["dsgdm", alpha], "accuracy_deviation") for alpha in alphas)
    yield f"deviations of local momentum reach {most:.1f} points"
    assert is_alike(found["qsaddle", "0.1"], found["qgm", "0.1"])
    assert is_alike(found["dsaddle", "0.1"], found["dsgd", "0.1"])
    rates = [float(found["qsaddle", a]["lr"]) / float(found["qgm", a]["lr"]) for a in alphas]
    assert (round(min(rates)), round(max(rates))) == (3, 10)
    yield "rates three to ten times QGM's"


def first_choice() -> Iterable[str]:
    """Of the table before rates that diverged were left out."""
    text = (BENCHMARKS / "reproduction" / "fashion_mnist" / "first_choice.md").read_text()
    lines = [[c.strip() for c in line.split("|")] for line in text.splitlines() if "|" in line]
    diverged = {
        (cells[1], cells[2]): (re.findall(r"(\d) diverged", cells[5]) or ["0"])[0]
        for cells in lines[2:]
    }
    qgm = [diverged["qgm", alpha] for alpha in ("0.1", "0.01", "0.001")]
    yield (
        f"QGM diverged in {qgm[0]}, {qgm[1]} and {qgm[2]} of its 3 runs and D-SADDLe in "
        f"{diverged['dsaddle', '0.01']} of 3 at alpha 0.01"
    )
    assert {count for (name, _), count in diverged.items() if name == "qsaddle"} == {"0"}
    (reached,) = [cells[6] for cells in lines[2:] if cells[1:3] == ["qgm", "0.01"]]
    yield f"that did not diverge with 0.1 reached {float(reached.split()[0]):.1f}"


def all_systems() -> Iterable[str]:
    listed = rows("all_systems")
    found = {(r["algorithm"], r["sam"] or "full", r["alpha"]): r for r in listed}
    yield f"The table is of {sum(int(r['runs']) for r in listed)} runs."
    counts = [round(float(r["gradient_evaluations"])) for r in listed]
    yield f"2,360 gradients an agent ({min(counts):,} to {max(counts):,})"
    epochs = {r["algorithm"]: float(r["epochs"]) for r in listed if r["sam"] in ("", "full")}
    yield (
        f"{epochs['qgm']:.0f} epochs for one gradient a step, {epochs['dsaddle']:.0f} for two, "
        f"{epochs['ngm']:.1f} for NGM's three, {epochs['nsaddle']:.1f} for N-SADDLe's six"
    )

    def pair(name: str, sam: str = "full") -> list[Row]:
        return [found[name, sam, alpha] for alpha in ("0.1", "0.01")]

    def behind(ours: list[Row], other: list[Row]) -> str:
        return " and ".join(ahead(b, a) for a, b in zip(ours, other, strict=True))

    def traces(rows: list[Row]) -> list[float]:
        return [float(row["hessian_trace"]) for row in rows]

    ours, qgm, moved = pair("qsaddle"), pair("qgm"), pair("qsaddle", "momentum")
    said = [" and ".join(f"{trace:.0f}" for trace in traces(each)) for each in (ours, qgm)]
    yield f"(trace {said[0]} against {said[1]})"
    yield f"with half the steps it is {behind(ours, qgm)} points less accurate"
    yield f"D-SADDLe is {behind(pair('dsaddle'), pair('dsgd'))} points behind DSGD"
    yield f"N-SADDLe {behind(pair('nsaddle'), pair('ngm'))} behind NGM"
    said = [" and ".join(f"{percents(row):.2f}" for row in each) for each in (moved, qgm)]
    yield f"the best of the Q family at both alphas ({said[0]}; QGM {said[1]}, within a deviation at 0.1)"
    assert is_alike(moved[0], qgm[0]) and not is_alike(moved[1], qgm[1])
    flatter = [a / b for a, b in zip(traces(qgm), traces(moved), strict=True)]
    assert min(flatter) >= 2 and max(flatter) <= 4
    yield "twice to four times flatter than QGM"
    lost = {
        name: percents(first) - percents(second)
        for name in ("relaysgd", "d2", "gradienttracking", "momentumtracking", "qgm", "dsgdm")
        for first, second in [pair(name)]
    }
    tracking = {f"{lost[name]:.1f}" for name in ("gradienttracking", "momentumtracking")}
    yield (
        f"From alpha 0.1 to 0.01 RelaySGD loses {lost['relaysgd']:.1f} points, D2 {lost['d2']:.1f}, gradient and "
        f"momentum tracking {' or '.join(tracking)}, QGM {lost['qgm']:.1f}, DSGDm {lost['dsgdm']:.1f}."
    )
    best = max((r for r in listed if r["alpha"] == "0.01"), key=percents)
    assert best["algorithm"] == "relaysgd" and is_alike(best, moved[1])
    assert round(float(pair("qgm")[0]["bytes"]) / float(pair("localsgd")[0]["bytes"])) == 4


def changing_graphs() -> Iterable[str]:
    listed = rows("changing_graphs")
    found = {(r["algorithm"], r["topology"], r["faults"], r["alpha"]): r for r in listed}
    yield f"The first table is of {sum(int(r['runs']) for r in listed)} runs."

    def row(name: str, graph: str = "ring", faults: str = "none", alpha: str = "0.01") -> Row:
        return found[name, graph, faults, alpha]

    ring = row("qsaddle")
    others = ("one-peer-exponential", "matchings")
    gains = [ahead(row("qsaddle", graph), ring) for graph in others]
    assert all(
        is_alike(row("qsaddle", graph, alpha="0.1"), row("qsaddle", alpha="0.1"))
        for graph in others
    )
    yield f"within a deviation of it at alpha 0.1, and {gains[0]} and {gains[1]} points better at 0.01"
    cost = [
        ahead(row("qsaddle", alpha=a), row("qsaddle", "ring", "links:0.3", a))
        for a in ("0.1", "0.01")
    ]
    yield f"30% of the ring's links down cost it {cost[0]} and {cost[1]} points"
    leads = {
        alpha: sorted(
            float(ahead(qgm, found[("qsaddle", *key[1:])]))
            for key, qgm in found.items()
            if key[0] == "qgm" and key[3] == alpha
        )
        for alpha in ("0.1", "0.01")
    }
    ends = [f"{each[0]:.1f} to {each[-1]:.1f}" for each in leads.values()]
    yield (
        f"QGM is ahead of Q-SADDLe on every graph, by {ends[0]} points at alpha 0.1 and by {ends[1]} at 0.01"
    )
    names = ("qsaddle", "qgm", "dsgd")
    down, none = (
        [f"{percents(row(name, 'ring', faults), 'worst_accuracy'):.1f}" for name in names]
        for faults in ("links:0.3", "none")
    )
    moved = [float(ahead(row(name, "ring", "links:0.3"), row(name))) for name in names]
    yield (
        f"the worst agent has {down[0]} percent with Q-SADDLe, {down[1]} with QGM and {down[2]} with DSGD "
        f"({none[0]}, {none[1]} and {none[2]} with none down); the consensus models lose {-moved[0]:.1f}, "
        f"gain {moved[1]:.1f} and lose {-moved[2]:.1f} points"
    )


def changing_graphs_lenet5() -> Iterable[str]:
    found = {
        (r["algorithm"], r["lr"], r["topology"], r["faults"]): r
        for r in rows("changing_graphs_lenet5")
    }
    gains = [
        ahead(found[name, lr, "one-peer-exponential", "none"], found[name, lr, "ring", "none"])
        for name, lr in (("dsgd", "0.1"), ("qgm", "0.03"), ("qsaddle", "0.1"))
    ]
    yield (
        f"better than the ring by {gains[0]} points with DSGD, {gains[1]} with QGM and {gains[2]} with Q-SADDLe at 0.1"
    )
    evaluations = {round(float(row["gradient_evaluations"])) for row in found.values()}
    assert evaluations == {1180}


def compression() -> Iterable[str]:
    found = {(r["algorithm"], r["compressor"].rpartition(":")[2]): r for r in rows("compression")}
    for name in ("qgm", "qsaddle"):
        whole = found[name, "none"]
        for bits, fewer in (("8", 4), ("4", 8)):
            assert round(float(whole["bytes"]) / float(found[name, bits]["bytes"])) == fewer
            assert is_alike(whole, found[name, bits])
    yield "Four and eight times fewer bytes cost nothing that three seeds can show"
    rates = [float(found[name, "none"]["lr"]) for name in ("qsaddle", "qgm")]
    assert round(rates[0] / rates[1], 9) == 3
    yield "Q-SADDLe runs at three times QGM's rate"


def trade_offs() -> Iterable[str]:
    found = {
        (r["topology"], r["gossip_every"], r["compressor"].rpartition(":")[2]): r
        for r in rows("trade_offs")
    }

    def saving(one: Row, other: Row) -> float:
        return float(one["bytes"]) / float(other["bytes"])

    whole, four, seldom = (
        found["ring", every, bits] for every, bits in (("1", "none"), ("1", "4"), ("4", "4"))
    )
    assert is_alike(whole, four) and round(saving(whole, four)) == 8
    assert round(saving(four, seldom)) == 4
    lost = [
        percents(found["ring", "1", bits], name) - percents(found["ring", "4", bits], name)
        for name in ("accuracy", "worst_accuracy")
        for bits in ("none", "8", "4")
    ]
    assert all(0.4 < each < 0.7 for each in lost[:3]) and all(
        2.5 <= each < 3.5 for each in lost[3:]
    )
    peer = found["one-peer-exponential", "1", "none"]
    assert round(saving(whole, peer)) == 2
    assert round(saving(found["one-peer-exponential", "1", "8"], peer), 1) == 1
    yield "for an eighth of the bytes; three local steps between gossips save three quarters more and cost half a point"


def rho_sweep() -> Iterable[str]:
    found = {row["rho"]: row for row in rows("rho_sweep")}
    best = max(found, key=lambda rho: percents(found[rho]))
    first, last = found["0.0"], found[best]
    yield f"rho {best} ({percents(last):.1f} against {percents(first):.1f} percent at rho 0)"
    assert float(last["sam_sharpness"]) < 1e-4
    yield f"falls from {float(first['sam_sharpness']):.4f} to below 0.0001"
    yield f"from {float(first['top_eigenvalue']):.1f} to {float(last['top_eigenvalue']):.2f}"
    times = sorted(float(row["step_milliseconds"]) for row in found.values())
    yield f"{times[0]:.1f} to {times[-1]:.1f} ms"


def launches() -> Iterable[str]:
    """Those that tests/kernels/test_launches.py counts."""
    counts = [LAUNCHES[name][0] for name in ("QGM", "QSADDLe", "QGM, 8 bits", "QSADDLe, 8 bits")]
    yield f"{counts[0]} for QGM, {counts[1]} for Q-SADDLe, {counts[2]} and {counts[3]} with 8-bit messages"


def of_method(name: str) -> Iterable[str]:
    """What the page of an optimizer may say of it, beside the others that it names."""
    found = {
        (r["algorithm"], r["alpha"]): r for r in rows("all_systems") if r["sam"] in ("", "full")
    }
    algorithm = name.replace("-", "")
    pair = [found.get((algorithm, alpha)) for alpha in ("0.1", "0.01")]
    infos = [
        row["extra_info"]
        for row in json.loads((BENCHMARKS / "results" / "cpu.json").read_text())["benchmarks"]
    ]
    for i in infos:
        is_own = (i.get("implementation"), i.get("dim")) == ("fastsaddle", 1_000_000)
        if is_own and i.get("method", "").lower() == algorithm:
            milliseconds = i["bytes"] / i["gb_per_s"] / 1e6
            yield f"{milliseconds:.2f} ms, {i['percent_of_copy']:.0f} % of copy"
    if pair[0] and pair[1]:
        deviations = [percents(row, "accuracy_deviation") for row in pair if row]
        values = [percents(row) for row in pair if row]
        said = [f"{v:.2f} ± {d:.2f}" for v, d in zip(values, deviations, strict=True)]
        yield " and ".join(said)
        lost = f"{values[0] - values[1]:.1f} points"
        yield f"it lost {lost}"
        yield f"lost the least, {lost}"
    least = {r["algorithm"]: percents(r) for r in rows("fashion_mnist") if r["alpha"] == "0.001"}
    if algorithm == "dsgdm":
        yield f"{least['dsgdm']:.2f} percent, DSGD {least['dsgd']:.2f} and QGM {least['qgm']:.2f}"
    if algorithm == "qsaddle":
        moved = [percents(r) for r in rows("all_systems") if r["sam"] == "momentum"]
        yield f"{moved[0]:.2f} and {moved[1]:.2f} percent at equal budgets"


def questions() -> Iterable[str]:
    systems = {(r["algorithm"], r["sam"], r["alpha"]): r for r in rows("all_systems")}
    best, full, plain = (
        percents(systems[name, sam, "0.1"])
        for name, sam in (("qsaddle", "momentum"), ("qsaddle", "full"), ("qgm", ""))
    )
    yield f"{best:.2f} percent, where full Q-SADDLe had {full:.2f} and QGM {plain:.2f}"
    assert best == max(percents(r) for key, r in systems.items() if key[::2] == ("qsaddle", "0.1"))
    rates = {key: float(row["lr"]) for key, row in systems.items()}

    def rate(name: str, alpha: str = "0.1", sam: str = "") -> float:
        return rates[name, sam, alpha]

    (quasi,) = {rate("qgm"), rate("qsaddle", sam="full")}
    (corrected,) = {rate(name) for name in ("gradienttracking", "momentumtracking", "d2")}
    adam = max(rate("qgadam", alpha) for alpha in ("0.1", "0.01"))
    yield (
        f"DSGD took {rate('dsgd')}, QGM and Q-SADDLe {quasi}, the trackers and D2 {corrected}, "
        f"and QGAdam {adam} or less"
    )
    yield f"{rate('dsgdm')} at alpha 0.1, and {rate('dsgdm', '0.01')} at alpha 0.01"
    sent = {
        row["compressor"].rpartition(":")[2]: row
        for row in rows("trade_offs")
        if (row["topology"], row["gossip_every"]) == ("ring", "1")
    }
    four, whole = sent["4"], sent["none"]
    yield (
        f"four bits had {percents(four):.2f} percent for {float(four['bytes']) / 1e6:.1f} MB an agent, "
        f"whole models {percents(whole):.2f} for {float(whole['bytes']) / 1e6:.1f}"
    )
    sweep = {float(row["rho"]): percents(row) for row in rows("rho_sweep")}
    assert max(sweep, key=sweep.__getitem__) == 0.2 and sweep[0.5] < sweep[0.2]
    yield "On the digits accuracy grew up to 0.2 and fell at 0.5"
    graphs = {
        (row["algorithm"], row["topology"], row["alpha"]): row
        for row in rows("changing_graphs")
        if row["faults"] == "none"
    }
    better = [
        percents(row) > percents(graphs[name, "ring", alpha])
        for (name, graph, alpha), row in graphs.items()
        if graph == "one-peer-exponential"
    ]
    assert better.count(False) == 1 and len(better) == 6


def front() -> Iterable[str]:
    found = {
        (row["gossip_every"], row["compressor"].rpartition(":")[2]): row
        for row in rows("trade_offs")
        if row["topology"] == "ring"
    }
    assert is_alike(found["1", "none"], found["1", "4"])
    lost = [percents(found["1", bits]) - percents(found["4", bits]) for bits in ("none", "8", "4")]
    assert all(0.4 < each < 0.7 for each in lost)
    yield "cost nothing that three seeds can show; fewer gossips cost half a point"


SAID = {
    "evidence.md": (
        *(fashion_mnist, first_choice, all_systems, changing_graphs, changing_graphs_lenet5),
        *(compression, trade_offs, rho_sweep),
    ),
    "index.md": (front,),
    "measured.md": (launches,),
    "questions.md": (questions,),
}


@pytest.mark.parametrize(
    "page, said",
    [(page, said) for page, each in SAID.items() for said in each],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_pages_say_what_the_files_say(page: str, said: object) -> None:
    assert callable(said)
    text = prose(ROOT / "docs" / page)
    assert [sentence for sentence in said() if sentence not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_other_figure_is_quoted(page: Path) -> None:
    """Where a page must have one: its sentence belongs in SAID, or, where nothing was measured, in SETTINGS."""
    text = prose(page)
    known = [sentence for said in SAID.get(page.name, ()) for sentence in said()]
    if page.parent.name == "methods":
        known += of_method(page.stem)
    for sentence in known:
        text = text.replace(sentence, "")
    for setting in (*SETTINGS[""], *SETTINGS.get(page.name, ())):
        text = re.sub(setting, "", text)
    patterns = (FIGURE, DECIMAL) if page.name in SAID else (FIGURE,)
    found = [
        text[max(0, m.start() - 60) : m.end() + 20] for p in patterns for m in p.finditer(text)
    ]
    assert found == []


def test_the_summary_is_in_the_files() -> None:
    """Counted from the files, with no help of the report's code."""
    text = (ROOT / "docs" / "measured.md").read_text()
    summary = text.split("<!-- measured: summary -->")[1].split("<!-- measured: end -->")[0]
    assert 10 <= summary.count("\n* ") <= 14
    content = {
        name: json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
        for name in ("cpu", "ranks", "peers", "growth")
    }
    infos = [row["extra_info"] for row in content["cpu"]["benchmarks"]]
    taxes = {i["network"]: i["stacking_tax"] for i in infos if i.get("asked") == "auto"}
    assert all(f"{tax:.2f} ({network})" in summary for network, tax in taxes.items())
    sized = [i for i in infos if (i["agents"], i["dim"]) == (16, 1_000_000)]
    steps = {
        i["implementation"]: i["bytes"] / i["gb_per_s"] / 1e6
        for i in sized
        if i.get("method") == "QGM"
    }
    own = steps.pop("fastsaddle")
    least, most = min(steps.values()) / own, max(steps.values()) / own
    assert f"takes {own:.1f} ms" in summary
    assert f"is {least:.1f} to {most:.1f} times as fast as in PyTorch" in summary
    tracking = [
        i["percent_of_copy"]
        for i in infos
        if i.get("method") in ("GradientTracking", "MomentumTracking", "D2")
    ]
    assert f"at {min(tracking):.0f} to {max(tracking):.0f} % of the speed of a copy" in summary
    (codes,) = content["ranks"]["parts"]["compressed"]["rows"]
    assert f"takes {codes['measured']:.2f} of the time of a whole row" in summary
    largest = [r for r in content["growth"]["rows"] if (r["agents"], r["threads"]) == (1024, 1)]
    assert f"takes {1e3 * largest[0]['seconds']:.0f} ms on one thread" in summary
    accuracies = {
        (r["algorithm"], r["compressor"].rpartition(":")[2]): percents(r)
        for r in rows("compression")
    }
    assert f"QGM reaches {accuracies['qgm', '4']:.2f} ±" in summary
    assert f"with whole models {accuracies['qgm', 'none']:.2f} ±" in summary
