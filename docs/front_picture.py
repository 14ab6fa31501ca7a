"""Draws docs/skew.svg and docs/sent.svg from the committed tables of the reproductions: run it."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REPRODUCTION = HERE.parent / "benchmarks" / "reproduction"
WIDTH, HEIGHT = 470, 420
ALPHAS = ("0.1", "0.01", "0.001")
# algorithm of the table, its name, its class of color
LINES = (
    ("qsaddle", "Q-SADDLe", "blue"),
    ("qgm", "QGM", "orange"),
    ("dsaddle", "D-SADDLe", "sky"),
    ("dsgd", "DSGD", "grey"),
    ("dsgdm", "DSGDm", "rose"),
)
EVERY = (("1", "gossip after every step", "orange"), ("4", "gossip after every 4th step", "sky"))
BITS = {"none": "32 bits", "stochastic-quantizer:8": "8 bits", "stochastic-quantizer:4": "4 bits"}

STYLE = """<style>
svg { --paper: #ffffff; --ink: #1f2328; --soft: #59636e; --rule: #d8dee4; --blue: #0b5cad; --orange: #c2570c;
  --sky: #2f8fc7; --grey: #6e7781; --rose: #a8487a; }
@media (prefers-color-scheme: dark) { svg { --paper: #15181c; --ink: #e6e9ed; --soft: #9da7b1; --rule: #363c44;
  --blue: #5aa9f5; --orange: #f0914a; --sky: #7cc7f0; --grey: #9aa4ae; --rose: #e08ab5; } }
text { font-family: -apple-system, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif; font-size: 14px;
  fill: var(--soft); }
.paper { fill: var(--paper); stroke: var(--rule); }
.head { font-size: 17px; font-weight: 600; fill: var(--ink); }
.rule { stroke: var(--rule); stroke-width: 1; }
.line { fill: none; stroke-width: 2.4; }
.bar { stroke-width: 1.4; opacity: 0.65; }
.name { font-weight: 600; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.blue { stroke: var(--blue); } .orange { stroke: var(--orange); } .sky { stroke: var(--sky); }
.grey { stroke: var(--grey); } .rose { stroke: var(--rose); }
circle.blue, text.blue { fill: var(--blue); } circle.orange, text.orange { fill: var(--orange); }
circle.sky, text.sky { fill: var(--sky); } circle.grey, text.grey { fill: var(--grey); }
circle.rose, text.rose { fill: var(--rose); }
text.blue, text.orange, text.sky, text.grey, text.rose { stroke: none; }
</style>"""


def rows(name: str) -> list[dict[str, str]]:
    """The committed table of a comparison."""
    with (REPRODUCTION / name / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def percent(row: dict[str, str]) -> tuple[float, float]:
    """Accuracy of the consensus model and its deviation over seeds."""
    return 100 * float(row["accuracy"]), 100 * float(row["accuracy_deviation"])


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{words}</text>'


@dataclass(frozen=True)
class Axis:
    """Accuracy from `low` to `high` percent, drawn from `bottom` up to `top`."""

    low: float
    high: float
    top: float = 92
    bottom: float = 352

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * (value - self.low) / (self.high - self.low)

    def grid(self, left: float, right: float, step: int) -> list[str]:
        marks = range(math.ceil(self.low), int(self.high) + 1, step)
        found = []
        for mark in marks:
            y = self.y(mark)
            found.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="rule"/>')
            found.append(text(left - 8, y + 5, f"{mark}%", "end"))
        return found

    def curve(self, points: list[tuple[float, tuple[float, float]]], color: str) -> list[str]:
        """A line through accuracies, with a bar of one deviation at each."""
        path = " L".join(f"{x:.1f} {self.y(mean):.1f}" for x, (mean, _) in points)
        found = [f'<path d="M{path}" class="line {color}"/>']
        for x, (mean, deviation) in points:
            y1, y2 = self.y(mean - deviation), self.y(mean + deviation)
            found.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" class="bar {color}"/>'
            )
            found.append(f'<circle cx="{x:.1f}" cy="{self.y(mean):.1f}" r="4" class="{color}"/>')
        return found


def skew() -> list[str]:
    """Accuracy over how unlike the agents' data are."""
    axis, places = Axis(64, 90), dict(zip(ALPHAS, (96.0, 224.0, 352.0), strict=True))
    found = {(r["algorithm"], r["alpha"]): percent(r) for r in rows("fashion_mnist")}
    drawn = [
        text(20, 36, "Accuracy when agents see different data", "head"),
        text(20, 58, "16 agents on a ring, LeNet-5, Fashion-MNIST"),
        *axis.grid(62, 370, 6),
    ]
    for algorithm, name, color in reversed(LINES):
        points = [(x, found[algorithm, alpha]) for alpha, x in places.items()]
        drawn += axis.curve(points, color)
        drawn.append(text(384, axis.y(points[-1][1][0]) + 5, name, f"name {color}"))
    drawn += [text(x, 376, alpha, "middle") for alpha, x in places.items()]
    drawn.append(text(224, 402, "Dirichlet alpha: smaller is more unlike", "middle"))
    return drawn


def sent() -> list[str]:
    """Accuracy over bytes, with fewer bits a number and fewer gossips."""
    axis, left, right = Axis(85, 89), 66.0, 440.0
    low, high = math.log10(20), math.log10(1000)

    def x(megabytes: float) -> float:
        return left + (right - left) * (math.log10(megabytes) - low) / (high - low)

    ring = [row for row in rows("trade_offs") if row["topology"] == "ring"]
    drawn = [
        text(20, 36, "The same accuracy for fewer bytes", "head"),
        text(20, 58, "16 agents on a ring, QGM, perceptron, Fashion-MNIST"),
        *axis.grid(left, right, 1),
    ]
    for every, name, color in EVERY:
        points = [
            (x(float(row["bytes"]) / 1e6), percent(row), BITS[row["compressor"]])
            for row in ring
            if row["gossip_every"] == every
        ]
        drawn += axis.curve([(place, value) for place, value, _ in points], color)
        sign = -1 if every == "1" else 1
        for place, (mean, deviation), bits in points:
            y = axis.y(mean + sign * -deviation) + (-8 if sign < 0 else 18)
            drawn.append(text(place, y, bits, f"middle {color}"))
        places = [place for place, _, _ in points]
        y = axis.y(88.4) if every == "1" else axis.y(85.6)
        drawn.append(text(sum(places) / len(places), y, name, f"name middle {color}"))
    drawn += [text(x(mark), 376, str(mark), "middle") for mark in (30, 100, 300, 1000)]
    drawn.append(text((left + right) / 2, 402, "MB sent by each agent in the whole run", "middle"))
    return drawn


def page(label: str, drawn: list[str]) -> str:
    """A whole picture, with the words that stand for it where it is not seen."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{label}">'
    )
    paper = (
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10" class="paper"/>'
    )
    return "\n".join([head, STYLE, paper, *drawn, "</svg>"]) + "\n"


def pages() -> dict[str, str]:
    """Both pictures by the names of their files."""
    return {
        "skew.svg": page(
            "Accuracy of five methods at Dirichlet alpha 0.1, 0.01 and 0.001: Q-SADDLe is highest at each, "
            "and the methods part as alpha falls.",
            skew(),
        ),
        "sent.svg": page(
            "Accuracy over megabytes sent: four bits a number reach the accuracy of 32.", sent()
        ),
    }


if __name__ == "__main__":
    for name, content in pages().items():
        (HERE / name).write_text(content)
