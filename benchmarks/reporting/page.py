"""The measured figures that pages show, from the JSON files of one folder; what has no file is told as not measured."""

import json
from pathlib import Path
from typing import Any

import reporting.peers as peers_report
import reporting.ranks as ranks_report
from reporting.files import read
from reporting.remarks import remarks
from reporting.render import render
from reporting.tables import label, machine

# what the README shows of the CPU's report, for 16 agents of 1,000,000 parameters
STEPS = ("QGM.step", "QSADDLe.step", "Comp QGM.step", "gossip_step", "encode, 8 bits")
OURS = ("fastsaddle", "native")
COUNTS = {1: "one thread", 2: "two threads"}


def page(results: Path, link: str = "benchmarks/results") -> str:
    """From CPU and GPUs to peers, growth and ranks: Markdown without a last line break; `link` leads to the folder."""
    parts = [*cpu(results, link), *gpus(results), *peers(results, link), growth(results, link)]
    return "\n\n".join([*parts, ranks(results)])


def few(results: Path, link: str = "benchmarks/results") -> str:
    """The README's rows and picture; rows that were not measured are left out."""
    if not (results / "cpu.json").exists():
        return "Not measured on a CPU."
    report = read([results / "cpu.json"])
    infos = [(label(row), row["extra_info"]) for row in report["benchmarks"] if _has_name(row)]
    cells = [_step_cells(what, infos) for what in STEPS]
    tax = [i["extra_info"] for i in report["benchmarks"] if i["extra_info"].get("asked") == "auto"]
    if tax:
        tax.sort(key=lambda info: info["stacking_tax"])
        said = ", ".join(f"{info['stacking_tax']:.2f} ({info['network']})" for info in tax)
        first = "time of 16 agents' gradients, over that of one model on all their samples"
        cells.append([first, said, ""])
    cells += [_peer_cells(results), _growth_cells(results)]
    lines = ["| what | measured | times as fast as |", "| --- | --- | --- |"]
    lines += [f"| {' | '.join(row)} |" for row in cells if row]
    picture = f"![percent of copy bandwidth]({link}/cpu.svg)"
    parts = [
        f"{machine(report)}. Steps, ops and codes: 16 agents x 1,000,000 parameters.",
        "\n".join(lines),
        picture,
    ]
    if not list(results.glob("gpu_*.json")):
        parts.append("Nothing was measured on a GPU yet.")
    return "\n\n".join(parts)


def _has_name(row: dict[str, Any]) -> bool:
    return bool({"op", "method"} & row["extra_info"].keys())


def _step_cells(what: str, infos: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Time and percent of the copy bandwidth, and how much slower others are."""
    alike = [i for name, i in infos if name == what and (i["agents"], i["dim"]) == (16, 1_000_000)]
    own = [info for info in alike if info["implementation"] in OURS]
    if not own:
        return []
    (mine,) = own
    time = {i["implementation"]: i["bytes"] / i["gb_per_s"] / 1e6 for i in alike}
    taken = time.pop(mine["implementation"])
    others = "; ".join(f"{t / taken:.1f} x {name}" for name, t in sorted(time.items()))
    said = f"{taken:.2f} ms, {mine['percent_of_copy']:.0f} % of the copy bandwidth"
    return [f"`{what}`" if "," not in what else what, said, others]


def _peer_cells(results: Path) -> list[str]:
    if not (results / "peers.json").exists():
        return []
    content = json.loads((results / "peers.json").read_text())
    agents = content["agents"][0]
    own = {r["engine"]: r.get("best") for r in content["results"] if r["agents"] == agents}
    ratios = peers_report.ratios(content, agents, "best")
    others = [f"{ratio:.1f} x the {name}" for name, ratio in ratios.items()]
    if not others:
        return []
    first = f"agent-steps per second, {agents} agents, one thread"
    return [first, f"{own['fastsaddle']:,.0f}", "; ".join(others)]


def _growth_cells(results: Path) -> list[str]:
    if not (results / "growth.json").exists():
        return []
    rows = json.loads((results / "growth.json").read_text())["rows"]
    most = max(row["agents"] for row in rows)
    row = next(row for row in rows if row["agents"] == most)
    said = f"{1e3 * row['seconds']:.0f} ms, {row['bytes'] / 2**20:.0f} MiB"
    return [f"a whole step of {most:,} agents, Q-SADDLe, 784-32-10, one thread", said, ""]


def cpu(results: Path, link: str = "benchmarks/results") -> list[str]:
    if not (results / "cpu.json").exists():
        return ["Not measured on a CPU."]
    report = read([results / "cpu.json"])
    picture = f"![percent of copy bandwidth]({link}/cpu.svg)"
    parts = [render(report), picture, remarks(report)]
    return [part for part in parts if part]


def gpus(results: Path) -> list[str]:
    """A section for each gpu_*.json, by name."""
    files = sorted(results.glob("gpu_*.json"))
    if not files:
        return ["Not measured on a GPU: no figure for one is claimed."]
    return [f"On a GPU: {render(read([file]))}" for file in files]


def peers(results: Path, link: str = "benchmarks/results") -> list[str]:
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
        f"turn of one interleaved run, [details]({link}/peers.md)), with "
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


def growth(results: Path, link: str = "benchmarks/results") -> str:
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
        f"([all sizes]({link}/growth.md), `python benchmarks/growth.py --data-dir DIR`)."
    )


def ranks(results: Path) -> str:
    """Figures of agents over processes."""
    path = results / "ranks.json"
    if not path.exists():
        return "Agents over processes: not measured."
    words = (
        "Agents over processes, `python benchmarks/ranks.py`: gloo over loopback, rows of 1,000,000 parameters. Each "
        "figure is the median of the ratios of turns in one run, of wall time where nothing else is said."
    )
    return f"{words}\n\n{ranks_report.report(json.loads(path.read_text()))}"


def listed(words: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
