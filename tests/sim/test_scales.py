"""Pictures: a scale that tells ends apart, titles and legends that lie beside the lines, what groups are called."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from fastsaddle.sim.comparison import plot, results
from fastsaddle.sim.comparison.grid import Cell
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.report import curve_drawing, curve_figures
from fastsaddle.sim.report.curves import Curve
from fastsaddle.sim.run import plots


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures instead of files."""
    figures: list[Figure] = []
    for module in (plots, plot):
        monkeypatch.setattr(module, "save", lambda figure, path: figures.append(figure))
    return figures


def rise(end: float, seed: int) -> np.ndarray:
    """From a tenth to `end`, as accuracies go, with a little noise."""
    noise = np.random.default_rng(seed).normal(0, 0.0003, 21)
    return end - (end - 0.1) * np.exp(-np.arange(21) / 1.5) + noise


def rows(accuracy: np.ndarray) -> list[dict[str, Any]]:
    names = ("consensus_accuracy", "mean_accuracy", "worst_accuracy")
    return [
        {
            "step": 10 * i,
            **dict.fromkeys(names, a),
            "consensus_distance": 1 / (1 + i),
            "bytes_sent": i,
        }
        for i, a in enumerate(accuracy)
    ]


def share_apart(limits: tuple[float, float], one: float, other: float) -> float:
    """How far two values lie apart, as a share of the axis."""
    return abs(one - other) / (limits[1] - limits[0])


def test_tenths_of_a_percent_are_told_apart(seed: int) -> None:
    lines = [rise(end, seed + i) for i, end in enumerate((0.956, 0.957, 0.960))]
    low, high = plots.share_limits(lines)
    assert high - low < 0.03 and low < 0.956 < 0.960 < high
    assert share_apart((low, high), 0.956, 0.957) > 0.03
    assert all(low <= line[10:].min() and line[10:].max() <= high for line in lines)


def test_limits_of_odd_lines() -> None:
    assert plots.share_limits([]) == (0.0, 1.0)
    assert plots.share_limits([np.array([np.nan, np.nan])]) == (0.0, 1.0)
    low, high = plots.share_limits([np.array([0.5])])
    assert low == pytest.approx(0.495) and high == pytest.approx(0.505)
    low, high = plots.share_limits([np.array([0.1, 1.0, 1.0])])
    assert low <= 0.995 and 1 <= high < 1.01
    low, high = plots.share_limits([np.array([0.0, np.nan, 0.0, 0.4])])
    assert low == 0.0 and high > 0.4


def test_a_runs_curves(drawn: list[Figure], seed: int, tmp_path: Path) -> None:
    title = "a-name-" * 14 + "\n" + "qgm with SAM gradients, 16 agents, " * 5
    plots.draw_curves(tmp_path / "c.png", rows(rise(0.957, seed)), title)
    (figure,) = drawn
    figure.draw_without_rendering()
    accuracy = figure.axes[0]
    low, high = accuracy.get_ylim()
    assert high - low < 0.03
    assert [note.get_text() for note in accuracy.texts] == [f"cut off below {low:.1%}"]
    shown = figure._suptitle  # type: ignore[attr-defined]
    width, height = figure.bbox.width, figure.bbox.height
    box = shown.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= width and box.y1 <= height
    legend = accuracy.get_legend().get_window_extent()
    assert legend.y0 >= accuracy.get_window_extent().y1 and legend.y1 <= box.y0 + 1


def test_an_axis_that_shows_all_says_nothing(drawn: list[Figure], tmp_path: Path) -> None:
    plots.draw_curves(tmp_path / "c.png", rows(np.array([0.9, 0.91, 0.9, 0.92])), "short")
    assert not drawn[0].axes[0].texts


def outcome(config: TrainConfig, seed: int, end: float) -> results.Outcome:
    found = rows(rise(end, seed))
    return results.Outcome(Cell(config), found, results.measures(found, config.agents, {}))


def test_a_comparisons_curves_and_their_names(
    drawn: list[Figure], seed: int, tmp_path: Path
) -> None:
    ends = {("plain", "none"): 0.956, ("sam", "none"): 0.957, ("sam", "sign"): 0.960}
    outcomes = [
        outcome(
            TrainConfig(algorithm=a, gradient=g, compressor=c), seed + i, end + (a == "qgm") / 999
        )
        for a in ("qgm", "dsgd")
        for i, ((g, c), end) in enumerate(ends.items())
    ]
    groups = results.group(outcomes, ["algorithm", "gradient", "compressor"])
    assert [g.label for g in groups][:3] == [
        "qgm with plain gradients",
        "qgm with SAM gradients",
        "qgm with SAM gradients, sign",
    ]
    assert plot.is_of_curves(groups, ())
    plot.draw(tmp_path / "c.png", groups, (), "what they share, " * 20)
    (figure,) = drawn
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert share_apart(axes.get_ylim(), 0.956, 0.957) > 0.03
    assert [n.get_text() for n in axes.texts] == [f"cut off below {axes.get_ylim()[0]:.1%}"]
    (legend,) = figure.legends
    assert legend.get_window_extent().y1 <= axes.get_window_extent().y0
    assert axes.get_legend() is None


def test_the_rate_of_sam_is_named_for_any_algorithm_that_has_it() -> None:
    configs = [TrainConfig(algorithm="qgm", gradient="sam", rho=rho) for rho in (0.1, 0.2)]
    groups = results.group([outcome(c, 0, 0.9) for c in configs], ["rho"])
    assert [g.label for g in groups] == ["rho 0.1", "rho 0.2"]


def test_the_reports_curves(seed: int) -> None:
    """Panels of shares span what lines come to; a run that diverged does not stretch them."""
    figure = curve_drawing.Drawn("a", "A", "consensus_accuracy", "a", "Said.", is_share=True)
    ended = [(np.arange(3.0), np.array([0.1, 0.5, 0.2]))]
    curves = [
        Curve(f"{end}", "", 1, np.arange(21.0), rise(end, seed), np.zeros(21), ends)
        for end, ends in ((0.956, []), (0.96, ended))
    ]
    low, high = curve_drawing._y_scale(figure, curves).limits
    assert high - low < 0.03 and low < 0.956 < 0.96 < high
    dead = [Curve("d", "", 0, np.empty(0), np.empty(0), np.empty(0), ended)]
    low, high = curve_drawing._y_scale(figure, dead).limits
    assert low < 0.2 and high > 0.5


def test_nothing_compressed_has_no_card() -> None:
    run = SimpleNamespace(rows=[{"compression_error": 0.0}], diverged=None)
    group: Any = SimpleNamespace(runs=[run])
    assert curve_figures.draw_compression_error([group]) == []


@pytest.mark.parametrize(("lines", "columns"), [(1, 1), (3, 3), (4, 2), (5, 3), (7, 3)])
def test_rows_of_a_legend_are_about_as_long(lines: int, columns: int) -> None:
    figure = Figure(figsize=(12, 4))
    axes = figure.subplots()
    for number in range(lines):
        axes.plot([0, 1], label=f"a method on some graph, number {number}")
    plots.legend_below(figure, axes)
    (legend,) = figure.legends
    assert legend._ncols == columns
