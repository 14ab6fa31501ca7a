"""Draws docs/pictures/*.svg and makes the table of docs/graphs.md: `python docs/_ext/graph_pictures.py`.

Pictures are committed, so that they are seen without a build. Each one holds a digest of what it was drawn from, graphs
and this file, which a test compares.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from fastsaddle import topology
from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.graphs.schedule import Schedule, mean_messages, most_neighbors
from fastsaddle.graphs.spectrum import consensus_rate

PICTURES = Path(__file__).parents[1] / "pictures"
AGENTS = 16
STAYING = (
    *("ring", "chain", "star", "binary-tree", "torus:4x4", "exponential", "fully-connected"),
    *("random-regular:3", "erdos-renyi:0.3", "directed-ring", "directed-exponential"),
)
CHANGING = (
    *("one-peer-exponential", "one-peer-exponential:undirected", "base-graph:1", "base-graph:3"),
    *("matchings", "matcha:0.5", "equi-dyn", "equi-dyn:undirected"),
)
DRAWN = ("one-peer-exponential", "one-peer-exponential:undirected", "base-graph:3", "matchings")
MIXED = (
    *("chain", "ring", "torus:4x4", "exponential"),
    *("matchings", "one-peer-exponential", "base-graph:3"),
)
ROUNDS = 4
# seen on white and on black
EDGE, NODE, TEXT = "#8a8f98", "#3b82f6", "#767b84"
COLORS = ("#9ca3af", "#3b82f6", "#10b981", "#f59e0b", "#ec4899", "#8b5cf6", "#ef4444")
STYLE = {
    "font.size": 12,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": EDGE,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "svg.fonttype": "none",
    "svg.hashsalt": "fastsaddle",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def places(graph: Topology) -> list[tuple[float, float]]:
    """Where agents are drawn: on a circle, as a grid, on a line or as a tree."""
    n = graph.agents
    circle = [(math.sin(a), math.cos(a)) for a in (2 * math.pi * i / n for i in range(n))]
    if graph.name.startswith("torus"):
        rows, cols = map(int, graph.name.partition(":")[2].split("x"))
        return [
            (2 * (i % cols) / (cols - 1) - 1, 1 - 2 * (i // cols) / (rows - 1)) for i in range(n)
        ]
    if graph.name == "chain":
        # in rows of four, to and fro
        across = [(i % 4 if i // 4 % 2 == 0 else 3 - i % 4) for i in range(n)]
        return [(2 * a / 3 - 1, 1 - 2 * (i // 4) / ((n - 1) // 4)) for i, a in enumerate(across)]
    if graph.name == "star":
        rim = [
            (math.sin(a), math.cos(a)) for a in (2 * math.pi * i / (n - 1) for i in range(n - 1))
        ]
        return [(0.0, 0.0), *rim]
    if graph.name == "binary-tree":
        levels = [(i + 1).bit_length() - 1 for i in range(n)]
        return [
            ((2 * (i + 1 - 2**level) + 1) / 2**level - 1, 1 - 2 * level / max(levels))
            for i, level in enumerate(levels)
        ]
    return circle


def links(graph: Topology) -> Iterator[tuple[int, int, bool]]:
    """Who talks to whom: sender, receiver, and whether it goes one way."""
    near = graph.neighbors
    for i, heard in enumerate(near):
        for j in heard:
            both = i in near[j]
            if not both or i < j:
                yield j, i, not both


def draw_graph(ax: Axes, graph: Topology, title: str) -> None:
    at = places(graph)
    for j, i, one_way in links(graph):
        # the torus's links around it
        bent = graph.name.startswith("torus") and math.dist(at[i], at[j]) > 1
        patch = FancyArrowPatch(
            at[j],
            at[i],
            arrowstyle="-|>" if one_way else "-",
            mutation_scale=7,
            shrinkA=0,
            shrinkB=3 if one_way else 0,
            connectionstyle="arc3,rad=0.18" if bent else "arc3",
            color=EDGE,
            linewidth=0.9,
        )
        ax.add_patch(patch)
    ax.scatter(*zip(*at, strict=True), s=26, color=NODE, zorder=3)
    ax.set(xlim=(-1.3, 1.3), ylim=(-1.25, 1.25), aspect="equal")
    ax.set_axis_off()
    ax.set_title(title, fontsize=12, linespacing=1.3)


def topologies() -> Figure:
    figure, axes = plt.subplots(4, 3, figsize=(6.6, 9.6), layout="constrained")
    for ax in axes.flat[len(STAYING) :]:
        ax.set_axis_off()
    for ax, text in zip(axes.flat, STAYING, strict=False):
        graph = topology.parse(text, AGENTS)
        assert isinstance(graph, Topology)
        draw_graph(ax, graph, f"{text}\ngap {graph.spectral_gap:.3f}")
    return figure


def schedules() -> Figure:
    figure = plt.figure(figsize=(6.6, 8.4), layout="constrained")
    parts = figure.subfigures(len(DRAWN), 1, hspace=0.06)
    for part, text in zip(parts, DRAWN, strict=True):
        schedule = topology.parse(text, AGENTS)
        rate = consensus_rate(schedule)
        left = f"{rate:.2f} left by a gossip" if rate else "the exact mean in a period"
        part.suptitle(f"{text}: {left}", fontsize=12)
        for t, ax in enumerate(part.subplots(1, ROUNDS)):
            draw_graph(ax, schedule.at(t), f"round {t}")
    return figure


def distances(schedule: Schedule, rounds: int) -> list[float]:
    """Consensus distance of random models over gossips, relative to that at the start."""
    x = torch.randn(AGENTS, 256, generator=torch.Generator().manual_seed(0)).double()
    found = []
    for t in range(rounds + 1):
        found.append(float((x - x.mean(0)).norm()))
        x = schedule.at(t).W @ x
    return [max(d / found[0], 1e-16) for d in found]


def mixing() -> Figure:
    figure, ax = plt.subplots(figsize=(6.6, 4.8), layout="constrained")
    for text, color in zip(MIXED, COLORS, strict=True):
        left = distances(topology.parse(text, AGENTS), 20)
        # what is zero but for rounding ends the line
        end = next((t for t, d in enumerate(left) if d < 1e-9), len(left))
        ax.plot(left[: end + 1], color=color, label=text, linewidth=2, marker=".")
    ax.set(
        yscale="log", xlabel="gossips", ylabel="distance to the mean, relative", ylim=(1e-5, 1.5)
    )
    ax.set_xticks(range(0, 21, 5))
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color=EDGE, alpha=0.25)
    figure.legend(frameon=False, ncols=3, labelcolor=TEXT, loc="outside lower center")
    return figure


FIGURES: dict[str, tuple[Callable[[], Figure], Sequence[str]]] = {
    "topologies": (topologies, STAYING),
    "schedules": (schedules, DRAWN),
    "mixing": (mixing, MIXED),
}


def digest(name: str) -> str:
    """Of all that a picture is drawn from."""
    told = hashlib.sha256(Path(__file__).read_bytes())
    for text in FIGURES[name][1]:
        graph = topology.parse(text, AGENTS)
        for t in range(graph.period or ROUNDS):
            told.update(repr(graph.at(t).W.mul(1e6).round().int().tolist()).encode())
    return told.hexdigest()


def digest_in(picture: Path) -> str | None:
    """The digest that a picture holds."""
    found = re.search(r"drawn from ([0-9a-f]{64})", picture.read_text())
    return found and found[1]


def table() -> str:
    """How fast 16 agents mix, as docs/graphs.md has it."""
    lines = [
        "| `--topology` | neighbors, at most | models a round | spectral gap | left by a gossip | gossips to 1 % |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for text in (*STAYING, *CHANGING):
        graph = topology.parse(text, AGENTS)
        rate = consensus_rate(graph)
        gap = f"{graph.spectral_gap:.3f}" if isinstance(graph, Topology) else ""
        rate = 0.0 if rate < 1e-6 else rate
        needed = (graph.period or 1) if rate == 0 else math.ceil(math.log(0.01) / math.log(rate))
        sent = f"{mean_messages(graph):.1f}".removesuffix(".0")
        lines.append(
            f"| `{text}` | {most_neighbors(graph)} | {sent} | {gap} | {rate:.3f} | {needed} |"
        )
    return "\n".join(lines)


def main() -> None:
    for name, (make, _) in FIGURES.items():
        with plt.rc_context(STYLE):
            figure = make()
            about = {"Date": None, "Description": f"drawn from {digest(name)}"}
            figure.savefig(PICTURES / f"{name}.svg", metadata=about, transparent=True)
    print(table())


if __name__ == "__main__":
    main()
