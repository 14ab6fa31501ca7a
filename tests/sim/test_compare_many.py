"""Comparisons of many methods: which options are named, dots for each, tables that fit."""

import random
from typing import Any

import pytest
from matplotlib.container import ErrorbarContainer
from rich.console import Console

from fastsaddle.sim.comparison import tables
from fastsaddle.sim.comparison.dots import draw_dots
from fastsaddle.sim.comparison.grid import Cell
from fastsaddle.sim.comparison.results import Group, Outcome, group, telling
from fastsaddle.sim.config import TrainConfig

# an algorithm, and what an override of the grid gives it
METHODS: dict[str, dict[str, Any]] = {
    "dsgd": {"epochs": 20.0},
    "d2": {"epochs": 20.0, "consensus_step": 0.5},
    "relay-sgd": {"epochs": 20.0, "topology": "chain"},
    "dppf": {"epochs": 20.0, "push": 0.02},
    "ngm": {"epochs": 6.5},
}
NAMES = ["algorithm", "topology", "alpha", "epochs", "lr", "sam", "consensus_step", "push", "seed"]


def outcomes(seed: int) -> list[Outcome]:
    draw = random.Random(seed)
    found = []
    for alpha in (0.1, 0.01):
        runs = [{"algorithm": a, **o} for a, o in METHODS.items()]
        runs += [
            {"algorithm": "qsaddle", "sam": s, "epochs": e}
            for s, e in (("full", 10.0), ("looksam:5", 16.5))
        ]
        for options in runs:
            lr = draw.choice([0.03, 0.1])
            for number in range(3):
                config = TrainConfig(alpha=alpha, lr=lr, seed=number, **options)
                measures = {"accuracy": draw.random(), "bytes": draw.uniform(1e6, 9e9)}
                found.append(Outcome(Cell(config), [], measures))
    return found


def test_labels_name_what_tells_methods_apart(seed: int) -> None:
    groups = group(outcomes(seed), NAMES, tuned=("lr", "push"))
    names = [*METHODS, "qsaddle", "qsaddle, looksam:5"]
    assert [g.label for g in groups] == [
        f"{name.split(',')[0]}, alpha {alpha:g}{name.removeprefix(name.split(',')[0])}"
        for alpha in (0.1, 0.01)
        for name in names
    ]


def test_telling_keeps_what_is_needed_only() -> None:
    values = [
        {"algorithm": a, "alpha": alpha, "lr": lr, "epochs": e}
        for a, e in (("qgm", 20), ("ngm", 7))
        for alpha, lr in ((0.1, 0.3), (1, 0.1))
    ]
    assert telling(values, list(values[0]), tuned=("lr",)) == ["algorithm", "alpha"]
    assert telling(values, list(values[0]), tuned=("alpha",)) == ["algorithm", "lr"]
    assert telling(values[:1], ["algorithm", "lr"], tuned=()) == ["algorithm"]


def test_dots_are_the_means(seed: int) -> None:
    groups = group(outcomes(seed), NAMES, tuned=("lr", "push"))
    figure = draw_dots(groups, "many")
    accuracy, sent = figure.axes
    labels = [text.get_text() for text in accuracy.get_yticklabels()]
    assert labels == [*METHODS, "qsaddle", "qsaddle, looksam:5"]
    for axes, measure, factor in ((accuracy, "accuracy", 100), (sent, "bytes", 1e-6)):
        drawn = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
        assert [c.get_label() for c in drawn] == ["alpha 0.1", "alpha 0.01"]
        for container, mine in zip(drawn, (groups[:7], groups[7:]), strict=True):
            x = container.lines[0].get_xdata()
            assert list(x) == pytest.approx([factor * (g.mean(measure) or 0.0) for g in mine])
    # equal values lie side by side
    heights = [c.lines[0].get_ydata()[0] for c in accuracy.containers]
    assert abs(heights[0] - heights[1]) > 0.1


@pytest.mark.parametrize("width", [70, 400])
def test_a_narrow_table_leaves_consequences_out(width: int, seed: int) -> None:
    groups = group(outcomes(seed), NAMES, tuned=("lr", "push"))
    table = tables.show(groups, "many", Console(width=width))
    titles = [str(column.header) for column in table.columns]
    assert titles[0] == "algorithm" and {"alpha", "sam"} < set(titles)
    assert ("epochs" in titles) == (width == 400)


def test_defaults_and_what_a_method_does_not_take_are_not_shown() -> None:
    config = TrainConfig(algorithm="local-sgd", rho=0.3)
    mine = Group({"algorithm": "local-sgd", "topology": "ring", "rho": 0.3, "momentum": None}, [])
    mine.outcomes.append(Outcome(Cell(config), [], {}))
    assert mine.own == {"algorithm": "local-sgd"}
