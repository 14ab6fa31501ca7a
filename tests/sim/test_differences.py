"""Which group is better and whether seeds can show it: intervals by hand, and what the verdict makes of them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastsaddle.sim.comparison.differences import difference, interval
from fastsaddle.sim.comparison.grid import Cell
from fastsaddle.sim.comparison.results import Group, Outcome
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.report import page, ranking, verdict, verdict_of_one
from fastsaddle.sim.report.groups import RunGroup, group
from fastsaddle.sim.report.runs import read, read_all
from fastsaddle.sim.run.scales import lowest_shown
from tests.sim.test_report import element, make_comparison, make_run, rows_of, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")

# the 97.5 % points of Student's t, from printed tables
T_OF_1, T_OF_2 = 12.706205, 4.302653


def runs(values: dict[int, float | None], **options: Any) -> Group:
    outcomes = [
        Outcome(Cell(TrainConfig(seed=seed, **options)), [], None if v is None else {"accuracy": v})
        for seed, v in values.items()
    ]
    return Group({}, outcomes)


def test_equal_seeds_are_paired() -> None:
    first, second = runs({0: 0.91, 1: 0.93, 2: 0.98}), runs({2: 0.95, 0: 0.90, 1: 0.91})
    d = difference(first, second, "accuracy")
    assert d is not None and d.is_paired and d.seeds == 3
    # differences 0.01, 0.02, 0.03: deviation 0.01
    half = T_OF_2 * 0.01 / math.sqrt(3)
    assert d.mean == pytest.approx(0.02)
    assert (d.low, d.high) == pytest.approx((0.02 - half, 0.02 + half), rel=1e-5)
    assert not d.shows
    back = difference(second, first, "accuracy")
    assert back is not None and back.low == pytest.approx(-(d.high or 0))


@pytest.mark.parametrize("other", [{"alpha": 1.0}, {"split_seed": 5}, {"dataset": "cifar10"}])
def test_other_data_are_not_paired(other: dict[str, Any]) -> None:
    first, second = runs({0: 0.90, 1: 0.92}), runs({0: 0.80, 1: 0.84}, **other)
    d = difference(first, second, "accuracy")
    assert d is not None and not d.is_paired
    # Welch: variances of the means 0.0001 and 0.0004
    error = math.sqrt(0.0005)
    freedom = 0.0005**2 / (0.0001**2 + 0.0004**2)
    assert 1 < freedom < 2 and d.low is not None and d.high is not None
    half = (d.high - d.low) / 2
    assert T_OF_2 * error < half < T_OF_1 * error


def test_other_seeds_and_diverged_runs_are_not_paired() -> None:
    first = runs({0: 0.9, 1: 0.92, 2: 0.94})
    for second in (runs({0: 0.9, 1: 0.8}), runs({0: 0.9, 1: 0.8, 2: None}), runs({3: 0.9, 4: 0.8})):
        d = difference(first, second, "accuracy")
        assert d is not None and not d.is_paired and d.seeds == 2
        assert d.mean == pytest.approx(0.92 - 0.85)
    assert difference(first, runs({0: None}), "accuracy") is None


def test_the_same_difference_in_every_seed_is_not_certain() -> None:
    """One more sample of a small test set right in every seed: the interval is of the unpaired values."""
    d = difference(runs({0: 0.90, 1: 0.92}), runs({0: 0.89, 1: 0.91}), "accuracy")
    assert d is not None and not d.is_paired and not d.shows and (d.low or 0) < 0
    d = difference(runs({0: 0.92, 1: 0.92}), runs({0: 0.91, 1: 0.91}), "accuracy")
    assert d is not None and d.low is None and not d.shows
    d = difference(runs({0: 0.9, 1: 0.92}), runs({0: 0.9, 1: 0.92}), "accuracy")
    assert d is not None and (d.mean, d.low, d.high) == (0, 0, 0) and not d.shows
    d = difference(runs({0: 0.9}), runs({0: 0.8}), "accuracy")
    assert d is not None and d.low is None and d.mean == pytest.approx(0.1)


def test_the_interval_of_a_mean() -> None:
    low, high = interval(runs({0: 0.9, 1: 0.92}), "accuracy")
    # deviation 0.01 sqrt 2 over sqrt 2 runs
    assert (low, high) == pytest.approx((0.91 - T_OF_1 * 0.01, 0.91 + T_OF_1 * 0.01), rel=1e-5)
    assert interval(runs({0: 0.9}), "accuracy") == interval(runs({0: 0.9, 1: 0.9}), "accuracy")


def test_a_scale_leaves_out_what_is_far_off() -> None:
    assert lowest_shown([0.966, 0.963, 0.958, 0.953, 0.2]) == 0.953
    assert lowest_shown([0.966, 0.963, 0.2]) == 0.963
    assert lowest_shown([0.966, 0.963, 0.8, 0.2]) == 0.963
    assert lowest_shown([0.966, 0.2]) == 0.2
    assert lowest_shown([0.966, 0.95, 0.93, 0.9]) == 0.9
    # samples, not methods, are a point apart
    assert lowest_shown([0.966, 0.965, 0.94]) == 0.94
    assert lowest_shown([math.nan]) == 0 and lowest_shown([0.4, math.nan]) == 0.4


def groups_with(folder: Path, ends: dict[str, list[float]], **options: Any) -> list[RunGroup]:
    """A group for each algorithm, with the accuracies of its seeds at the end."""
    paths = []
    for algorithm, accuracies in ends.items():
        for seed, accuracy in enumerate(accuracies):
            path = make_run(folder / f"{algorithm}-{seed}", seed, algorithm=algorithm, **options)
            finish(path, accuracy)
            paths.append(path)
    return group(read_all(paths)[0], set())


def finish(path: Path, accuracy: float) -> None:
    *before, last = rows_of(path)
    write_rows(path, [*before, last | {"consensus_accuracy": accuracy}])


def test_a_winner(tmp_path: Path) -> None:
    ends = {"dsgd": [0.90, 0.91, 0.92], "qgm": [0.94, 0.949, 0.961], "d2": [0.80, 0.82, 0.81]}
    groups = groups_with(tmp_path, ends)
    lead, rest = verdict.of_groups(groups)
    assert lead.startswith("qgm wins with 95.00% consensus accuracy, 4.00 points above dsgd (95% ")
    assert lead.endswith(", 3 paired seeds).")
    assert "Behind by more than chance: d2 by 14.00 points." in rest
    assert "qgm took 60 gradients an agent, 2.4 MB an agent and 10.00 ms a step." in rest
    drawn = ranking.draw(verdict.tasks(groups))
    assert drawn is not None and [line.label for line in drawn.lines] == ["qgm", "dsgd", "d2"]
    assert [line.behind[:5] for line in drawn.lines] == ["", "4.00 ", "14.00"]
    assert drawn.titles == ["MB sent", "gradients", "ms a step"]


def test_no_winner(tmp_path: Path) -> None:
    close = groups_with(tmp_path / "a", {"dsgd": [0.90, 0.93, 0.92], "qgm": [0.92, 0.91, 0.93]})
    lead = verdict.of_groups(close)[0]
    assert lead.startswith("qgm leads with 92.00% consensus accuracy, 0.33 points above dsgd: no")
    assert "no difference that 3 paired seeds can show (95% interval \N{MINUS SIGN}" in lead
    single = groups_with(tmp_path / "b", {"dsgd": [0.90], "qgm": [0.92]})
    assert "one seed cannot show whether by chance." in verdict.of_groups(single)[0]
    equal = groups_with(tmp_path / "c", {"dsgd": [0.9, 0.92], "qgm": [0.9, 0.92]})
    assert verdict.of_groups(equal)[0] == "dsgd and qgm are equal at 91.00% consensus accuracy."


def test_sharpness_and_those_that_diverged_are_told(tmp_path: Path) -> None:
    ends = {"qgm": [0.9, 0.91, 0.92], "qsaddle": [0.9, 0.911, 0.93], "dsgd": [0.5]}
    groups_with(tmp_path, ends)
    for path in sorted(tmp_path.iterdir()):
        seed = int(path.name[-1])
        sharp = 0.02 + 0.001 * seed if path.name.startswith("qgm") else 0.01 + 0.0013 * seed
        (path / "sharpness.json").write_text(json.dumps({"sam_sharpness": sharp}))
    (tmp_path / "dsgd-0" / "diverged.json").write_text('{"step": 60, "message": "nan."}')
    said = verdict.of_groups(group(read_all(sorted(tmp_path.iterdir()))[0], set()))
    assert "The minimum of qsaddle is flatter: SAM sharpness 0.0113 against 0.0210." in said[1]
    assert said[-1] == "Diverged: dsgd (1 of 1)."


def test_groups_on_other_data_are_not_ranked(tmp_path: Path) -> None:
    several, alone = [], []
    for alpha in (0.1, 10.0):
        several += groups_with(tmp_path / f"{alpha}", {"dsgd": [0.9], "qgm": [0.8]}, alpha=alpha)
        alone += groups_with(tmp_path / f"one{alpha}", {"dsgd": [alpha / 20]}, alpha=alpha)
    for found in (several, alone):
        found[:] = group([run for g in found for run in g.runs], set())
    said = verdict.of_groups(several)
    assert [text.partition(" leads")[0] for text in said[::2]] == [
        "alpha 0.1: dsgd",
        "alpha 10: dsgd",
    ]
    (only,) = verdict.of_groups(alone)
    assert only.startswith("Consensus accuracy goes from 0.50% (alpha 0.1) to 50.00% (alpha 10).")
    assert "none of them wins" in only


def test_a_method_that_is_far_off_leaves_the_scale_to_the_others(tmp_path: Path) -> None:
    ends = {"dsgd": [0.2, 0.21], "qgm": [0.963, 0.964], "qsaddle": [0.966, 0.967]}
    drawn = ranking.draw(verdict.tasks(groups_with(tmp_path, ends)))
    assert drawn is not None
    best, second, last = (line.dot for line in drawn.lines)
    places = [float(dot.partition('<circle cx="')[2].partition('"')[0]) for dot in (best, second)]
    assert places[0] - places[1] > 40
    assert "<circle" not in last and "<path" in last and "dsgd: 20.50" in last


def test_one_run_is_told_in_sentences(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", 0, every=5)
    rows = rows_of(path)
    accuracies = [*np.linspace(0.5, 0.9, len(rows) - 1), 0.89]
    write_rows(path, [r | {"consensus_accuracy": a} for r, a in zip(rows, accuracies, strict=True)])
    (g,) = group([read(path)], set())
    first, second = verdict_of_one.sentences(g)
    assert first.startswith(
        "89.00% consensus accuracy after 60 steps; its best was 90.00% at step 55."
    )
    assert "It was still rising: by 10.8 points" in first
    assert second.startswith("The worst agent has 49.27%, 39.73 points below the consensus;")
    tiles = dict(verdict_of_one.tiles(g))
    assert tiles["sent by an agent"] == "2.4 MB" and tiles["consensus accuracy"] == "89.00%"
    level = [r | {"consensus_accuracy": 0.9} for r in rows]
    write_rows(path, level)
    assert (
        "It was level over the last third."
        in verdict_of_one.sentences(group([read(path)], set())[0])[0]
    )
    write_rows(path, level[:-2])
    (said, *_) = verdict_of_one.sentences(group([read(path)], set())[0])
    assert said == "At step 50 of 60."


def test_the_page_begins_with_the_verdict(tmp_path: Path) -> None:
    out = make_comparison(
        tmp_path / "c",
        {f"{a}{s}": {"seed": s, "algorithm": a} for a in ("d2", "qgm") for s in (0, 1)},
    )
    text = page.write([out], tmp_path / "page.html", surface=False).read_text()
    assert text.index('id="verdict"') < text.index('id="ranking"') < text.index('id="results"')
    assert element(text, "ranking").count("<tr") == 3
    # all send the same bytes, nothing was compressed
    assert 'id="accuracy-over-bytes"' not in text and 'id="compression-error"' not in text


def test_one_agent_has_no_pictures_of_several(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", 0, agents=1)
    write_rows(path, [row | {"consensus_distance": 0.0} for row in rows_of(path)])
    text = page.write([path], tmp_path / "page.html", surface=False).read_text()
    for name in ("consensus-distance", "class-heat-map", "topology", "section-data", "results"):
        assert f'id="{name}"' not in text and f'href="#{name}"' not in text, name
    assert "worst agent" not in text.lower()


def test_options_that_do_nothing_are_folded_away(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", 0, algorithm="qgm", alpha=0.5)
    text = page.write([path], tmp_path / "page.html", surface=False).read_text()
    changed, _, rest = text.partition('id="usual"')
    usual, _, idle = rest.partition("<details>")
    assert "<dt>alpha</dt><dd>0.5</dd>" in changed and "<dt>lr</dt>" in usual
    assert "<dt>rho</dt>" in idle and "<dt>rho</dt>" not in changed + usual
    assert "options that change nothing in these runs" in idle
