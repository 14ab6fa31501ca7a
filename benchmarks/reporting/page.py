"""The README's measured figures, all from the JSON files of one folder; what has no file is said to be not measured."""

import json
from pathlib import Path
from typing import Any

import reporting.peers as peers_report
from reporting.files import read
from reporting.remarks import remarks
from reporting.render import render

COUNTS = {1: "one thread", 2: "two threads"}


def page(results: Path) -> str:
    """CPU, picture, remarks, GPUs, peers, growth: Markdown without a last line break."""
    return "\n\n".join([*cpu(results), *gpus(results), *peers(results), growth(results)])


def cpu(results: Path) -> list[str]:
    if not (results / "cpu.json").exists():
        return ["Not measured on a CPU."]
    report = read([results / "cpu.json"])
    picture = f"![percent of copy bandwidth](benchmarks/{results.name}/cpu.svg)"
    parts = [render(report), picture, remarks(report)]
    return [part for part in parts if part]


def gpus(results: Path) -> list[str]:
    """A section for each gpu_*.json, by name."""
    files = sorted(results.glob("gpu_*.json"))
    if not files:
        return ["Not measured on a GPU: no figure for one is claimed."]
    return [f"On a GPU: {render(read([file]))}" for file in files]


def peers(results: Path) -> list[str]:
    """How fast fastsaddle is beside others, and the table of best turns."""
    path = results / "peers.json"
    if not path.exists():
        return ["Not measured beside peers."]
    content = json.loads(path.read_text())
    sizes = content["agents"]
    ratios = {agents: peers_report.ratios(content, agents, "best") for agents in sizes}
    said = []
    for name in dict.fromkeys(name for each in ratios.values() for name in each):
        found = {agents: f"{each[name]:.1f}" for agents, each in ratios.items() if name in each}
        where = "" if len(found) == len(sizes) else f" ({listed([*map(str, found)])} agents)"
        said.append(f"{listed([*found.values()])} times as fast as the {name}{where}")
    words = (
        "Beside peers, `python benchmarks/peers.py`: agent-steps per second (784-50-10, batch 32, one thread; best "
        f"turn of one interleaved run, [details](benchmarks/{results.name}/peers.md)), with "
        f"{listed([f'{agents:,}' for agents in sizes])} agents."
    )
    if said:
        words += f" fastsaddle is {listed(said)}."
    return [words, peers_table(content)]


def peers_table(content: dict[str, Any]) -> str:
    kinds = {engine["name"]: engine["kind"] for engine in content["engines"]}
    found = {(r["engine"], r["agents"]): r for r in content["results"]}
    notes = {"peer without gossip": " (no gossip)"}
    titles = [f"{name}{notes.get(kind, '')}" for name, kind in kinds.items()]
    lines = [f"| agents | {' | '.join(titles)} |", f"| ---: |{' ---: |' * len(titles)}"]
    for agents in content["agents"]:
        results = [found.get((engine, agents), {}) for engine in kinds]
        cells = [f"{r['best']:,.0f}" if "best" in r else "not measured" for r in results]
        lines.append(f"| {agents:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def growth(results: Path) -> str:
    """Time and memory of the largest stack, and how far from linear that is."""
    path = results / "growth.json"
    if not path.exists():
        return "Growth with the number of agents: not measured."
    rows = json.loads(path.read_text())["rows"]
    least, most = min(r["agents"] for r in rows), max(r["agents"] for r in rows)
    largest = [r for r in rows if r["agents"] == most]
    counts = [COUNTS.get(r["threads"], f"{r['threads']} threads") for r in largest]
    times = [f"{1e3 * r['seconds']:.0f} ms on {n}" for r, n in zip(largest, counts, strict=True)]
    of_time, of_memory = (
        listed([f"{r[key]:.2f}" for r in largest])
        for key in ("time_over_linear", "memory_over_linear")
    )
    memory = max(r["bytes"] for r in largest) / 2**20
    return (
        f"{most:,} agents on Fashion-MNIST (784-32-10, Q-SADDLe, ring): a step takes {listed(times)}, "
        f"in {memory:.0f} MiB; from {least} agents on that is {of_time} of linear in time, {of_memory} in memory "
        f"([all sizes](benchmarks/{results.name}/growth.md), `python benchmarks/growth.py --data-dir DIR`)."
    )


def listed(words: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
