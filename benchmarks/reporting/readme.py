"""The few rows that the README shows of what was measured on a CPU."""

from typing import Any

from benchmarks.reporting import peers
from benchmarks.reporting.machines import machine
from benchmarks.reporting.markdown import paragraphs, table
from benchmarks.reporting.results import Results
from benchmarks.reporting.rows import infos, milliseconds
from benchmarks.reporting.summary import AGENTS, timings

STEPS = ("QGM.step", "QSADDLe.step", "Comp QGM.step", "gossip_step", "encode, 8 bits")
OURS = ("fastsaddle", "native")


def few(results: Results) -> str:
    """Rows that were not measured are left out."""
    if results.cpu is None:
        return "Not measured on a CPU."
    rows = [*(step(what, results) for what in STEPS), tax(results), beside(results), large(results)]
    return paragraphs(
        f"{machine(results.cpu)}. Steps, ops and codes: 16 agents x 1,000,000 parameters.",
        table(("what", "measured", "times as fast as"), "lll", [row for row in rows if row]),
        "" if results.gpus else "Nothing was measured on a GPU yet.",
    )


def step(what: str, results: Results) -> tuple[str, ...]:
    """Time and percent of the copy bandwidth, and how much slower others are."""
    found = timings(results, what)
    (mine,) = [found.pop(name) for name in OURS if name in found] or [None]
    if mine is None:
        return ()
    ratios = {name: milliseconds(info) / milliseconds(mine) for name, info in found.items()}
    others = "; ".join(f"{ratio:.1f} x {name}" for name, ratio in sorted(ratios.items()))
    said = f"{milliseconds(mine):.2f} ms, {mine['percent_of_copy']:.0f} % of the copy bandwidth"
    return what if "," in what else f"`{what}`", said, others


def tax(results: Results) -> tuple[str, ...]:
    found = infos(results.cpu) if results.cpu else []
    chosen = sorted((i["stacking_tax"], i["network"]) for i in found if i.get("asked") == "auto")
    said = ", ".join(f"{tax:.2f} ({network})" for tax, network in chosen)
    first = f"time of {AGENTS} agents' gradients, over that of one model on all their samples"
    return (first, said, "") if chosen else ()


def beside(results: Results) -> tuple[str, ...]:
    """Peers."""
    content: dict[str, Any] = results.peers or {"agents": [0], "engines": [], "results": []}
    agents = content["agents"][0]
    own = peers.speeds(content, agents, "own", "best")
    others = [f"{r:.1f} x the {n}" for n, r in peers.ratios(content, agents, "best").items()]
    first = f"agent-steps per second, {agents} agents, one thread"
    return (first, f"{own['fastsaddle']:,.0f}", "; ".join(others)) if others else ()


def large(results: Results) -> tuple[str, ...]:
    """The largest stack, on the fewest threads."""
    if results.growth is None:
        return ()
    most = max(results.growth["rows"], key=lambda row: (row["agents"], -row["threads"]))
    said = f"{1e3 * most['seconds']:.0f} ms, {most['bytes'] / 2**20:.0f} MiB"
    first = f"a whole step of {most['agents']:,} agents, Q-SADDLe, 784-32-10, one thread"
    return first, said, ""
