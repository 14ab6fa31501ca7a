"""The table of benchmarks/peers.py from its JSON."""

from typing import Any

import machine
from tabulate import tabulate

# processor time tells more than the clock where others use the machine too
BASES = {"best": "best turn", "median": "median turn", "a_cpu_second": "processor time"}


def speeds(content: dict[str, Any], agents: int, kind: str, key: str) -> dict[str, float]:
    """Speeds at one size on one of the `BASES`, of all engines of a kind that were measured."""
    names = [e["name"] for e in content["engines"] if e["kind"] == kind]
    found = [r for r in content["results"] if r["agents"] == agents and key in r]
    return {r["engine"]: r[key] for r in found if r["engine"] in names}


def ratios(content: dict[str, Any], agents: int, key: str) -> dict[str, float]:
    """fastsaddle's speed over those of the fastest peers and of the plain loop."""
    (own,) = speeds(content, agents, "own", key).values() or [None]
    if own is None:
        return {}
    gossiping = speeds(content, agents, "peer", key)
    others = {
        "fastest peer": {**gossiping, **speeds(content, agents, "peer without gossip", key)},
        "fastest peer that gossips": gossiping,
        "fastest peer on all cores": speeds(content, agents, "peer on all cores", key),
        "plain loop": speeds(content, agents, "loop", key),
    }
    return {name: own / max(found.values()) for name, found in others.items() if found}


def report(content: dict[str, Any]) -> str:
    """Markdown: the machine, the table, what differs between the engines, and what was not measured."""
    sizes, engines, results = content["agents"], content["engines"], content["results"]
    cells = {(r["engine"], r["agents"]): r for r in results}
    rows = [
        [f"{e['name']} {e['version'] or ''}", *(cell(e, cells.get((e["name"], n))) for n in sizes)]
        for e in engines
    ]
    for key, basis in BASES.items():
        found = [ratios(content, agents, key) for agents in sizes]
        for name in dict.fromkeys(name for each in found for name in each):
            texts = [f"{each[name]:.2f}" if name in each else "" for each in found]
            rows.append([f"fastsaddle / {name}, by {basis}", *texts])
    table = tabulate(
        rows,
        headers=["agents", *map(str, sizes)],
        tablefmt="pipe",
        colalign=["left", *["right"] * len(sizes)],
        disable_numparse=True,
    )
    what = "best turn, median turn, and least milliseconds of processor time a step"
    lines = [
        machine.line(content["machine"], "one thread and one core a process"),
        "",
        f"Agent-steps per second (a local step on a batch of 32 and communication; 784-50-10): {what}.",
        "",
        table,
    ]
    parts = {
        "What differs": [f"{e['name']}: {e['words']}" for e in engines],
        "Notes": sorted({f"{r['engine']}: {r['note']}" for r in results if r["note"]}),
        "Not measured": [
            f"{r['engine']}, {r['agents']} agents: {r['failure']}"
            for r in results
            if "failure" in r
        ],
        "Not installed": [
            f"{e['name']}: pip install {e['package']}" for e in engines if e["version"] is None
        ],
    }
    for title, entries in parts.items():
        if entries:
            lines += ["", f"{title}:", "", *(f"* {entry}" for entry in entries)]
    return "\n".join(lines) + "\n"


def cell(engine: dict[str, Any], found: dict[str, Any] | None) -> str:
    """One engine at one size, which may still have to come."""
    if found is None:
        return "" if engine["version"] else "not installed"
    if "failure" in found:
        return "not measured"
    return f"{found['best']:,.0f}, {found['median']:,.0f}, {1e3 / found['a_cpu_second']:.2f} ms"
