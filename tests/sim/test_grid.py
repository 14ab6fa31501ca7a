"""Grids of runs: what they expand to, what they refuse, how tuning chooses."""

from pathlib import Path
from typing import Any

import pytest

from fastsaddle.sim.comparison import grid_source, tuning
from fastsaddle.sim.comparison.grid import Cell, varied
from fastsaddle.sim.comparison.results import Outcome
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run.labels import Labels

TOML = """
algorithm = ["dsgd", "qgm", "qsaddle"]
alpha = [0.1, 1]
seed = [3, 4]
nesterov = false

[tune]
lr = [0.01, 0.1]
rho = [0.02, 0.05]

[tuning]
seed = 99
steps = 7

[[override]]
when = { algorithm = "dsgd", alpha = 0.1 }
batch_size = [8, 16]
tune = { lr = [0.5, 1] }

[[override]]
when = { algorithm = "qgm", alpha = 1 }
tune = { lr = 0.5 }
"""
YAML = """
algorithm: [dsgd, qgm, qsaddle]
alpha: [0.1, 1]
seed: [3, 4]
nesterov: false
tune: {lr: [0.01, 0.1], rho: [0.02, 0.05]}
tuning: {seed: 99, steps: 7}
override:
  - when: {algorithm: dsgd, alpha: 0.1}
    batch_size: [8, 16]
    tune: {lr: [0.5, 1]}
  - when: {algorithm: qgm, alpha: 1}
    tune: {lr: 0.5}
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def names(cells: list[Cell]) -> set[str]:
    return {cell.name for cell in cells}


@pytest.mark.parametrize(("name", "text"), [("g.toml", TOML), ("g.yaml", YAML), ("g.yml", YAML)])
def test_a_file_expands(name: str, text: str, tmp_path: Path) -> None:
    grid = grid_source.build(written(tmp_path, name, text), [])
    cells = [cell.config for cell in grid.cells()]
    # 3 algorithms x 2 alphas x 2 seeds, and one pair of them with two batch sizes
    assert len(cells) == 12 + 2
    small = {(c.algorithm, c.alpha) for c in cells if c.batch_size == 8}
    assert small == {("dsgd", 0.1)}
    tuned = [cell.config for cell in grid.tuning_cells()]
    assert all(c.evaluate_on == "validation" and (c.seed, c.steps) == (99, 7) for c in tuned)
    found: dict[Any, set[Any]] = {}
    for c in tuned:
        found.setdefault((c.algorithm, c.alpha), set()).add((c.lr, c.rho))
    plain = {(0.01, 0.05), (0.1, 0.05)}
    # rho changes nothing without SAM: those runs are there once
    assert found == {
        ("dsgd", 0.1): {(0.5, 0.05), (1.0, 0.05)},
        ("dsgd", 1.0): plain,
        ("qgm", 0.1): plain,
        ("qgm", 1.0): {(0.5, 0.05)},
        **{
            ("qsaddle", alpha): {(lr, rho) for lr in (0.01, 0.1) for rho in (0.02, 0.05)}
            for alpha in (0.1, 1.0)
        },
    }
    assert grid.tuned == ("lr", "rho")
    assert varied(grid.cells()) == ["algorithm", "alpha", "batch_size", "seed"]


def test_both_languages_mean_the_same(tmp_path: Path) -> None:
    grids = [
        grid_source.build(written(tmp_path, name, text), ["--data-dir", "elsewhere", "--threads=1"])
        for name, text in (("g.toml", TOML), ("g.yaml", YAML))
    ]
    assert grids[0] == grids[1]


def test_the_command_line_replaces_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "g.toml", TOML)
    grid = grid_source.build(path, ["--algorithm=qgm", "--seed", "1", "2", "5", "--nesterov"])
    cells = [cell.config for cell in grid.cells()]
    assert [(c.algorithm, c.alpha, c.seed) for c in cells] == [
        ("qgm", alpha, seed) for alpha in (0.1, 1.0) for seed in (1, 2, 5)
    ]
    assert all(c.nesterov for c in cells)
    switches = grid_source.build(
        None, ["--algorithm", "qgm", "--seed=0", "--nesterov", "true", "false"]
    )
    assert [cell.config.nesterov for cell in switches.cells()] == [True, False]


def test_names_depend_on_what_is_computed_only() -> None:
    here = Cell(TrainConfig(algorithm="qgm", threads=1, data_dir=Path("a"), out=Path("x")))
    there = Cell(TrainConfig(algorithm="qgm", threads=2, data_dir=Path("b"), device="cpu"))
    assert here.name == there.name
    assert here.name != Cell(TrainConfig(algorithm="qgm", seed=1)).name
    small = grid_source.build(None, ["--algorithm", "qgm", "--seed", "0"])
    large = grid_source.build(
        None, ["--algorithm", "qgm", "dsgd", "--seed", "0", "1", "--lr", "0.1"]
    )
    assert names(small.cells()) < names(large.cells())


def test_default_is_all_algorithms() -> None:
    cells = grid_source.build(None, []).cells()
    assert len(cells) == 15 and len({cell.config.algorithm for cell in cells}) == 5


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("lr = 'fast'", "--lr must be float, got 'fast'"),
        ("speed = 3", "--speed is not an option of train that a grid can have"),
        ("out = 'x'", "--out is not an option of train that a grid can have"),
        ("algorithm = ['qgm', 'sgd']", "--algorithm must be one of .* got 'sgd'"),
        ("rho = [0.1, -1]\nalgorithm = 'qsaddle'", "--rho must be finite and >= 0, got -1"),
        ("init = 'random'", "--init must be .*'same', 'independent'"),
        ("seed = []", "--seed has no value"),
        ("nesterov = 'perhaps'", "--nesterov must be true or false, got 'perhaps'"),
        ("lr = true", "--lr takes a value, got True"),
        ("[[override]]\nlr = 1", "an override needs `when`"),
        ("lr = [", "is not TOML"),
    ],
)
def test_wrong_files_are_refused(content: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rule):
        grid_source.build(written(tmp_path, "g.toml", content), [])


def test_unreadable_command_lines_and_files(tmp_path: Path) -> None:
    for arguments, rule in (
        (["--seed", "1", "--seed", "2"], "--seed is given twice"),
        (["-seed", "1"], "expected an option that begins with --"),
        (["--seed", "1", "--lr", "x"], "--lr must be float, got 'x'"),
    ):
        with pytest.raises(ValueError, match=rule):
            grid_source.build(None, arguments)
    with pytest.raises(ValueError, match=r"must end in \.toml, \.yaml or \.yml"):
        grid_source.build(written(tmp_path, "g.json", "{}"), [])
    with pytest.raises(ValueError, match="must hold options by name, got list"):
        grid_source.build(written(tmp_path, "g.yaml", "- 1"), [])
    with pytest.raises(ValueError, match="is not YAML"):
        grid_source.build(written(tmp_path, "h.yaml", "a: [1"), [])
    with pytest.raises(FileNotFoundError):
        grid_source.build(tmp_path / "absent.toml", [])


def test_tuning_takes_the_best_mean(tmp_path: Path) -> None:
    text = TOML.replace("seed = 99", "seed = [98, 99]")
    grid = grid_source.build(written(tmp_path, "g.toml", text), [])

    def outcome(cell: Cell) -> Outcome:
        c = cell.config
        # a lucky seed must not decide, nor a run that diverged
        value = {0.01: 0.6, 0.1: 0.5, 0.5: 0.4, 1.0: 0.3}[c.lr] + c.rho
        value += 0.3 * (c.seed == 98 and c.lr == 0.1) - 0.3 * (c.seed == 99 and c.lr == 0.1)
        diverged = c.algorithm == "qgm" and c.lr == 0.01 and c.seed == 99
        return Outcome(cell, [], None if diverged else {"accuracy": value})

    chosen = tuning.choose(grid, [outcome(cell) for cell in grid.tuning_cells()])
    found = {(c.when["algorithm"], c.when["alpha"]): c for c in chosen}
    # the override has two batch sizes there, and each its own choice
    assert len(found) == 6 and len(chosen) == 7
    assert found["dsgd", 0.1].values == {"lr": 0.5} and found["dsgd", 0.1].edges == ("lr",)
    assert found["qgm", 0.1].values == {"lr": 0.1}
    # a single candidate is chosen, and at no edge
    assert (found["qgm", 1.0].values, found["qgm", 1.0].edges) == ({"lr": 0.5}, ())
    assert found["qsaddle", 0.1].values == {"lr": 0.01, "rho": 0.05}
    assert "batch_size 32: lr 0.01, rho 0.05 (65.00% on" in found["qsaddle", 0.1].note(Labels([]))
    finals = grid.cells(choice.as_override() for choice in chosen)
    rates = {(c.config.algorithm, c.config.alpha): c.config.lr for c in finals}
    assert len(finals) == 14
    assert (
        rates["qgm", 0.1] == 0.1
        and rates["qgm", 1.0] == 0.5
        and rates["dsgd", 1.0] == 0.01
        and rates["dsgd", 0.1] == 0.5
    )
    assert all(c.config.evaluate_on == "test" and c.config.seed in (3, 4) for c in finals)
