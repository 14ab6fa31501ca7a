"""Drawings of who talks to whom."""

import re
from collections.abc import Mapping
from typing import Any

import networkx as nx
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.graphs.schedule import Schedule, most_neighbors
from fastsaddle.graphs.spectrum import described
from fastsaddle.sim import methods
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.report.drawing import INK, Panel, Picture, inked, to_svg
from fastsaddle.sim.report.groups import RunGroup
from fastsaddle.sim.run import topologies
from fastsaddle.sim.run.labels import of_agents
from fastsaddle.sim.run.paths import without_folders

MOST_TOPOLOGIES = 4
MOST_LABELED = 200
FEW_LINES = 300
# more are drawn as pixels
MOST_LINES = 2_000
MOST_EDGES = 50_000
# the spectral gap of 4,096 takes 14 s
MOST_AGENTS = 2_048
SIZE = 3.6
ON_A_CIRCLE = re.compile(
    "(directed-)?ring|exponential|fully-connected|dyck|random-regular.*|one-peer.*|base-graph.*"
    "|matchings.*|equi-dyn.*"
)
TORUS = re.compile(r"torus:(\d+)x(\d+)")
NODE = "#56B4E9"

Positions = Mapping[int, np.ndarray]


def draw(groups: list[RunGroup]) -> Picture:
    """The topologies of the groups, each once and at most four."""
    alone: dict[str, None] = {}
    # a graph may be drawn from the seed: of a group's runs the first stands for all
    named: dict[tuple[str, int], TrainConfig] = {}
    for g in groups:
        config = g.runs[0].config
        if methods.takes(config.algorithm, "topology"):
            named.setdefault((g.options["topology"], config.agents), config)
        else:
            alone[g.options["algorithm"]] = None
    panels: list[Panel] = []
    sentences = []
    for text, agents in list(named)[:MOST_TOPOLOGIES]:
        config = named[text, agents]
        if agents > MOST_AGENTS:
            sentences.append(f"{text}: {agents:,} agents, too many to be drawn.")
            continue
        try:
            graph = topologies.find(config.topology, agents, config.seed)
        except (ValueError, OSError, ImportError) as error:
            sentences.append(f"{text} could not be drawn: {without_folders(str(error))}.")
            continue
        name = f"topology-{len(panels)}"
        title = f"{text}, {of_agents(agents)}" if len(named) > 1 else ""
        drawing = _draw(graph.union)
        panels.append(Panel(title, to_svg(drawing, name, f"{text}, {of_agents(agents)}")))
        sentences.append(_describe(graph, text))
    if alone:
        sentences.append(f"Not along a graph, but all with all: {', '.join(alone)}.")
    caption = " ".join(["Agents and the links along which models are averaged.", *sentences])
    if panels:
        caption += " The larger the gap, or the smaller the rate, the sooner agents agree."
    if left_out := [f"{text} of {agents}" for text, agents in list(named)[MOST_TOPOLOGIES:]]:
        caption += f" Not shown: {'; '.join(left_out)}."
    return Picture("topology", "Topology", caption, tuple(panels))


def _describe(schedule: Schedule, text: str) -> str:
    graph = schedule.union
    linked = (graph.W > 0) | (graph.W.T > 0)
    # whichever way a link points
    degrees = linked.fill_diagonal_(False).sum(1)
    low, high = int(degrees.min()), int(degrees.max())
    each = str(low) if low == high else f"{low} to {high}"
    sentence = (
        f"{text}: {of_agents(graph.agents)}, {graph.edges:,} links, {each} neighbors each, "
        f"{described(schedule)}."
    )
    if not isinstance(schedule, Topology):
        sentence += (
            " Drawn are the links of all rounds; in one round an agent hears at most "
            f"{topologies.of_neighbors(most_neighbors(schedule))}."
        )
    if _arrows(graph):
        sentence += " Arrows point from who sends to who hears."
    if TORUS.fullmatch(graph.name):
        sentence += " Open ends at a border meet at the opposite one."
    if graph.edges > MOST_EDGES:
        sentence += " Its links are too many to be drawn."
    return sentence


def _draw(graph: Topology) -> Figure:
    positions = _positions(graph)
    places = np.array([positions[i] for i in range(graph.agents)])
    arrows = _arrows(graph)
    segments = [] if graph.edges > MOST_EDGES else _segments(graph, places, arrows)
    few = graph.agents <= MOST_LABELED
    with inked():
        figure = Figure(figsize=(SIZE, SIZE), layout="constrained")
        axes = figure.subplots()
        width = 1.0 if len(segments) <= FEW_LINES else 0.5
        lines = LineCollection(segments, colors=INK, alpha=0.45 * width, linewidths=width)
        if len(segments) > MOST_LINES:
            # one color for both grounds: what is drawn as pixels cannot take the page's
            lines.set(rasterized=True, color="#808080")
        axes.add_collection(lines)
        radius = 9.0 if graph.agents <= 40 else max(1.5, 60 / graph.agents**0.5)
        for sender, hearer in arrows:
            ends = tuple(places[sender]), tuple(places[hearer])
            style: dict[str, Any] = {
                "arrowstyle": "-|>",
                "mutation_scale": radius,
                "color": INK,
                "linewidth": 1.0,
            }
            # a scatter's size is its diameter's square
            room = radius * 2.4**0.5 / 2
            axes.add_patch(FancyArrowPatch(*ends, shrinkA=room, shrinkB=room, alpha=0.45, **style))
        axes.scatter(
            places[:, 0],
            places[:, 1],
            s=radius**2 * (2.4 if few else 1),
            c=NODE,
            linewidths=0,
            zorder=2,
        )
        if few:
            size = max(2.5, min(8.0, 0.8 * radius))
            for i, (x, y) in enumerate(places):
                style = {"ha": "center", "va": "center", "size": size, "color": "#101010"}
                axes.text(x, y, str(i), **style)
        axes.set_aspect("equal")
        axes.margins(0.08)
        axes.set_axis_off()
        return figure


def _positions(graph: Topology) -> Positions:
    """The torus as a grid, the star around its middle, what has a natural order on a circle."""
    links = nx.Graph((i, j) for i, row in enumerate(graph.neighbors) for j in row)
    links.add_nodes_from(range(graph.agents))
    if match := TORUS.fullmatch(graph.name):
        columns = int(match[2])
        return {i: np.array([i % columns, -(i // columns)], float) for i in range(graph.agents)}
    ordered = nx.Graph()
    ordered.add_nodes_from(range(graph.agents))
    if ON_A_CIRCLE.fullmatch(graph.name):
        return nx.circular_layout(ordered)
    if graph.name == "star":
        return nx.shell_layout(ordered, [[0], list(range(1, graph.agents))])
    if graph.agents <= MOST_LABELED:
        return nx.kamada_kawai_layout(links)
    return nx.spectral_layout(links)


def _arrows(graph: Topology) -> set[tuple[int, int]]:
    """Links that point one way, as (who sends, who hears); none where there are too many to tell arrows apart."""
    if graph.edges > FEW_LINES:
        return set()
    links = {(j, i) for i, row in enumerate(graph.neighbors) for j in row}
    return {(j, i) for j, i in links if (i, j) not in links}


def _segments(
    graph: Topology, places: np.ndarray, arrows: set[tuple[int, int]]
) -> list[np.ndarray]:
    """A line for each link that is no arrow; one that goes around the torus is two stubs."""
    wraps = TORUS.fullmatch(graph.name) is not None
    links = {(min(i, j), max(i, j)) for i, row in enumerate(graph.neighbors) for j in row}
    segments = []
    for i, j in sorted(links - {(min(link), max(link)) for link in arrows}):
        step = places[j] - places[i]
        if wraps and np.abs(step).max() > 1:
            stub = -0.45 * np.sign(step)
            segments += [
                np.stack([places[i], places[i] + stub]),
                np.stack([places[j], places[j] - stub]),
            ]
        else:
            segments.append(np.stack([places[i], places[j]]))
    return segments
