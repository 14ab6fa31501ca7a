"""How fast a simulated step is beside other packages, from what benchmarks/peers.py measured."""

from typing import Any

from benchmarks.machine import line
from benchmarks.reporting.markdown import bullets, folded, listed, paragraphs, table

# processor time tells more than the clock where others use the machine too
BASES = {"best": "best turn", "median": "median turn", "a_cpu_second": "processor time"}
NOTES = {"peer without gossip": " (no gossip)"}


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


def peers(content: dict[str, Any]) -> str:
    """What the ratios are, the table of best turns, and all else folded."""
    return paragraphs(
        f"{line(content['machine'], 'one thread and one core a process')}.",
        words(content),
        best_turns(content),
        folded("All turns, what differs, and what was not measured", details(content)),
    )


def words(content: dict[str, Any]) -> str:
    sizes = content["agents"]
    found = {agents: ratios(content, agents, "best") for agents in sizes}
    said = []
    for name in dict.fromkeys(name for each in found.values() for name in each):
        times = {agents: f"{each[name]:.1f}" for agents, each in found.items() if name in each}
        where = "" if len(times) == len(sizes) else f" ({listed([*map(str, times)])} agents)"
        said.append(f"{listed([*times.values()])} times as fast as the {name}{where}")
    told = (
        "Agent-steps per second (784-50-10, batches of 32, one thread; the best turn of one interleaved run) with "
        f"{listed([f'{agents:,}' for agents in sizes])} agents."
    )
    return f"{told} fastsaddle is {listed(said)}." if said else told


def best_turns(content: dict[str, Any]) -> str:
    kinds = {engine["name"]: engine["kind"] for engine in content["engines"]}
    found = {(r["engine"], r["agents"]): r for r in content["results"]}
    head = ("agents", *(f"{name}{NOTES.get(kind, '')}" for name, kind in kinds.items()))
    rows = []
    for agents in content["agents"]:
        results = [found.get((engine, agents), {}) for engine in kinds]
        cells = [f"{r['best']:,.0f}" if "best" in r else "not measured" for r in results]
        rows.append((f"{agents:,}", *cells))
    return table(head, "r" * len(head), rows)


def details(content: dict[str, Any]) -> str:
    """All turns, what differs between the engines, and what was not measured."""
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
    lists = {
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
    return paragraphs(
        "Best turn, median turn, and least milliseconds of processor time a step:",
        table(["agents", *map(str, sizes)], "l" + "r" * len(sizes), rows),
        *(paragraphs(f"{title}:", bullets(entries)) for title, entries in lists.items() if entries),
    )


def cell(engine: dict[str, Any], found: dict[str, Any] | None) -> str:
    """One engine at one size, which may still have to come."""
    if found is None:
        return "" if engine["version"] else "not installed"
    if "failure" in found:
        return "not measured"
    return f"{found['best']:,.0f}, {found['median']:,.0f}, {1e3 / found['a_cpu_second']:.2f} ms"
