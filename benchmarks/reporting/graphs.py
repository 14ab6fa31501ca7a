"""What steps on graphs that change cost, and push-sum, from what benchmarks/steps/test_changing_graphs.py measured."""

from typing import Any

from benchmarks.reporting.machines import machine
from benchmarks.reporting.markdown import paragraphs, table

# over the same step on a graph that stays
LIMIT = 1.1
PUSH_SUM = "push-sum"


def graphs(report: dict[str, Any]) -> str:
    """A table of ratios, and whether changing graphs keep to their bound."""
    infos = [row["extra_info"] for row in report["benchmarks"]]
    medians = [row["stats"]["median"] for row in report["benchmarks"]]
    cells = [
        (f"`{i['method']}`", i["graph"], f"{1e3 * m:.1f}", f"{i['over_the_other']:.2f}")
        for i, m in zip(infos, medians, strict=True)
    ]
    worst = max(i["over_the_other"] for i in infos if i["graph"] != PUSH_SUM)
    sizes = {f"{i['agents']} agents x {i['dim']:,} numbers" for i in infos}
    return paragraphs(
        f"{machine(report)}; {', '.join(sorted(sizes))}.",
        table(("method", "graph", "ms a step", "times as long"), "llrr", cells),
        f"A changing graph costs {worst:.2f} at most, where {LIMIT} was asked for. The other step of each pair is one "
        "on a graph that stays with as many neighbors a round, or for push-sum one without it on a ring.",
    )
