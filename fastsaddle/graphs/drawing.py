"""A graph as a small drawing in HTML, for notebooks: agents on a circle, their links as lines."""

import math
from html import escape

import torch

SIZE, RADIUS, DOT = 220, 96, 5
# more are a blot
MOST_LINKS = 2_000
# mid-grey and blue are seen on light and dark ground
LINK, AGENT = "#888888", "#3b82c4"


def html(title: str, facts: str, W: torch.Tensor) -> str:
    """A title, a line of facts and the links of `W`, `[agents, agents]`; links that point one way end in a dot."""
    n = len(W)
    places = [_place(i, n) for i in range(n)]
    linked = (W > 0).fill_diagonal_(False)
    pairs = [(i, j) for i, j in linked.nonzero().tolist() if i < j or not linked[j, i]]
    left_out = (
        f"; its {len(pairs):,} links are too many to be drawn" if len(pairs) > MOST_LINKS else ""
    )
    lines = (
        ""
        if left_out
        else "".join(_link(places[i], places[j], bool(linked[j, i])) for i, j in pairs)
    )
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{DOT if n <= 64 else 2}"/>' for x, y in places
    )
    return (
        f"<div><strong>{escape(title)}</strong>, {escape(facts + left_out)}<br>"
        f'<svg role="img" aria-label="{escape(title)}" width="{SIZE}" height="{SIZE}">'
        f'<g stroke="{LINK}" fill="{LINK}" stroke-opacity="0.7">{lines}</g>'
        f'<g fill="{AGENT}">{dots}</g></svg></div>'
    )


def _place(agent: int, agents: int) -> tuple[float, float]:
    angle = 2 * math.pi * agent / agents - math.pi / 2
    return SIZE / 2 + RADIUS * math.cos(angle), SIZE / 2 + RADIUS * math.sin(angle)


def _link(to: tuple[float, float], of: tuple[float, float], both_ways: bool) -> str:
    """A line between two agents; where only the first hears the second, with a dot near the first."""
    (x, y), (u, v) = to, of
    line = f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{u:.1f}" y2="{v:.1f}"/>'
    if both_ways:
        return line
    share = 2.2 * DOT / max(math.dist(to, of), 1e-9)
    return line + f'<circle cx="{x + share * (u - x):.1f}" cy="{y + share * (v - y):.1f}" r="2.5"/>'
