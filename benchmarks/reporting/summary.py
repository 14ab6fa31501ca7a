"""The lines that a reader of docs/measured.md wants first: what is fast, and what is slow or lost."""

from collections.abc import Iterator
from typing import Any

from benchmarks.reporting import comparisons, peers
from benchmarks.reporting import ranks as over_ranks
from benchmarks.reporting.figures import of_cpu
from benchmarks.reporting.markdown import bullets, listed, paragraphs
from benchmarks.reporting.remarks import TRACKING, span
from benchmarks.reporting.results import Results
from benchmarks.reporting.rows import infos, label, milliseconds, timed

AGENTS, DIM = 16, 1_000_000


def summary(results: Results) -> str:
    """Two lists; what was not measured is not spoken of, but for GPUs."""
    return paragraphs(
        "What is fast:",
        bullets([*fast_steps(results), *fast_simulation(results), *cheap_messages(results)]),
        "What is slow, or lost:",
        bullets([*slow(results), *lost(results), *missed(results), *not_measured(results)]),
    )


def timings(results: Results, what: str) -> dict[str, dict[str, Any]]:
    """By implementation, of the size that is spoken of."""
    rows = timed(results.cpu) if results.cpu else []
    found = [row["extra_info"] for row in rows if label(row) == what]
    return {i["implementation"]: i for i in found if (i["agents"], i["dim"]) == (AGENTS, DIM)}


def fast_steps(results: Results) -> Iterator[str]:
    for what, words in (
        ("QGM.step", "A step of QGM for 16 agents of 1,000,000 parameters"),
        ("Comp QGM.step", "The same with 8-bit messages"),
    ):
        found = timings(results, what)
        if own := found.pop("fastsaddle", None):
            ratios = sorted(milliseconds(info) / milliseconds(own) for info in found.values())
            ends = [f"{ratio:.1f}" for ratio in dict.fromkeys((ratios[0], ratios[-1]))]
            yield (
                f"{words} takes {milliseconds(own):.1f} ms, {own['percent_of_copy']:.0f} % of the speed of a copy, and "
                f"is {' to '.join(ends)} times as fast as in PyTorch."
            )


def fast_simulation(results: Results) -> Iterator[str]:
    found = infos(results.cpu) if results.cpu else []
    taxes = sorted((i["stacking_tax"], i["network"]) for i in found if i.get("asked") == "auto")
    if taxes:
        said = listed([f"{tax:.2f} ({network})" for tax, network in taxes])
        yield (
            "Gradients of 16 agents take less time than those of one model on all their samples: "
            f"{said} of it on a CPU."
        )
    if results.peers:
        agents = results.peers["agents"][0]
        ratios = peers.ratios(results.peers, agents, "best")
        others = [f"{ratio:.1f} times as fast as the {name}" for name, ratio in ratios.items()]
        if others:
            yield f"A simulation of {agents} agents is {listed(others)}, on one thread."
    if results.growth:
        rows = results.growth["rows"]
        most = max(rows, key=lambda row: (row["agents"], -row["threads"]))
        yield (
            f"A step of {most['agents']:,} agents (Q-SADDLe, 784-32-10) takes {1e3 * most['seconds']:.0f} ms on one "
            f"thread and {most['bytes'] / 2**20:.0f} MiB."
        )


def cheap_messages(results: Results) -> Iterator[str]:
    found = {
        (row["algorithm"], comparisons.sent_as(row)): row
        for row in results.comparison("compression")
    }
    if found:
        whole, four = found["qgm", "float32"], found["qgm", "4 bits"]
        yield (
            f"With messages of 4 bits QGM reaches {comparisons.percent(four)} % on Fashion-MNIST, with whole models "
            f"{comparisons.percent(whole)} %, for {float(whole['bytes']) / float(four['bytes']):.1f} times fewer bytes."
        )
    unlike = {
        row["algorithm"]: row
        for row in results.comparison("fashion_mnist")
        if row["alpha"] == "0.001"
    }
    if unlike:
        ours, other = (comparisons.percent(unlike[name]) for name in ("qsaddle", "qgm"))
        yield (
            "Where agents' data are most unlike (Dirichlet 0.001), Q-SADDLe reaches "
            f"{ours} % and QGM {other} %, at equal steps."
        )


def slow(results: Results) -> Iterator[str]:
    rows = timed(results.cpu) if results.cpu else []
    percents = span(row["extra_info"]["percent_of_copy"] for row in rows if label(row) in TRACKING)
    if percents:
        yield f"Tracking methods and D2 run at {percents} % of the speed of a copy: they are PyTorch between their ops."
    if results.ranks:
        found = {figure.what: figure.worst for figure in over_ranks.figures(results.ranks["parts"])}
        costs = {what: worst for what, worst in found.items() if what.startswith("processor time")}
        said = [f"{worst:.2f} ({what.split(', ')[2]})" for what, worst in costs.items()]
        if said:
            yield (
                "Agents over two processes cost processor time, over that of one process for all: "
                f"{listed(said)}."
            )
        for row in over_ranks.rows_of(results.ranks["parts"], "compressed"):
            yield (
                f"Over loopback a message of 8 bits takes {row['measured']:.2f} of the time of a whole row: encoding "
                "and decoding eat most of what fewer bytes save."
            )


def lost(results: Results) -> Iterator[str]:
    found = {
        row["algorithm"]: row
        for row in results.comparison("all_systems")
        if row["alpha"] == "0.1" and row["sam"] in ("", "full")
    }
    if found:
        ours, other = (comparisons.percent(found[name]) for name in ("qsaddle", "qgm"))
        yield (
            f"At equal numbers of gradients SAM's second one does not pay: Q-SADDLe {ours} %, QGM {other} % "
            "(perceptron, Dirichlet 0.1)."
        )


def missed(results: Results) -> Iterator[str]:
    figures = of_cpu(infos(results.cpu)) if results.cpu else []
    if results.ranks:
        figures += over_ranks.figures(results.ranks["parts"])
    judged = [figure for figure in figures if figure.worst is not None]
    count = sum(figure.verdict == "missed" for figure in judged)
    if judged:
        yield (
            f"Of {len(judged)} figures that the package holds itself to on a CPU, {count} are missed; the tables say "
            "which."
        )


def not_measured(results: Results) -> Iterator[str]:
    if not results.gpus:
        yield "Nothing was measured on a GPU, and no figure for one is claimed."
