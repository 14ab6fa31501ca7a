"""Grids of runs: what they expand to, what they refuse, how tuning chooses."""

import time
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
        grid_source.build(
            written(tmp_path, name, text),
            ["--dataset=mnist", "--data-dir", "elsewhere", "--threads=1"],
        )
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


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("lr = 1\nlr = 2", "is not TOML: "),
        ("batch_size = 1\nbatch-size = 2", "batch-size is given twice, in two spellings"),
        ("tune = 5", "g.toml: tune must hold options by name, got 5"),
        ("tuning = [1]", r"tuning must hold options by name, got \[1\]"),
        ("override = 3", "override must be a list of tables, got 3"),
        ("override = [3]", r"override\[0\]: an override needs `when`.* got 3"),
        ("[[override]]\nwhen = 3", r"override\[0\].when must hold options by name, got 3"),
        ("[[override]]\nwhen = {lr = 1}\ntune = 3", r"override\[0\].tune must hold options"),
        ("[[override]]\nwhen = {lr = 1}\nspeed = 3", r"override\[0\].speed: --speed is not an"),
        ("[tuning]\nevaluate_on = 'test'", "tuning.evaluate_on must be validation"),
        ("[tune]\nevaluate_on = ['validation', 'test']", "tune.evaluate_on must be validation"),
        ("lr = [[0.1]]", r"--lr takes one value, got \[0.1\]"),
        ("lr = {a = 1}", "--lr takes one value, got {'a': 1}"),
    ],
)
def test_faults_of_toml_name_the_key(content: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rule) as error:
        grid_source.build(written(tmp_path, "g.toml", content), [])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("lr:", "g.yaml: --lr needs a value, got null"),
        ("lr: [0.1, null]", "--lr needs a value, got null"),
        ("override:", "override must be a list of tables, got None"),
        ("override: {when: {lr: 1}}", "override must be a list of tables"),
        ("1: 2", "1 must be the name of an option"),
        ("lr: 1\nlr: 2", "is not YAML: key 'lr' is given twice"),
        ("tune: {lr: 1, lr: 2}", "is not YAML: key 'lr' is given twice"),
        ("? [1]\n: 2", "is not YAML: .* is no name"),
        ("lr: !!timestamp x", "is not YAML"),
        ("lr: " + "[" * 3000, "is not YAML"),
        ("lr: 2020-99-99", "is not YAML"),
        ("lr: &a [1, &b [2]]", "--lr takes one value"),
    ],
)
def test_faults_of_yaml_name_the_key(content: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rule) as error:
        grid_source.build(written(tmp_path, "g.yaml", content), [])
    assert "\n" not in str(error.value)


def test_null_is_a_value_where_an_option_may_be_none(tmp_path: Path) -> None:
    text = "algorithm: qgm\nmomentum: [null, 0.5]"
    cells = grid_source.build(written(tmp_path, "g.yaml", text), []).cells()
    assert [cell.config.momentum for cell in cells] == [None, 0.5]


def test_two_billion_runs_are_refused_at_once(tmp_path: Path) -> None:
    lists = {"seed": 2000, "lr": 1000, "alpha": 1000}
    text = "".join(f"{name} = {list(range(1, n + 1))}\n" for name, n in lists.items())
    begin = time.monotonic()
    with pytest.raises(ValueError, match="can have 20,000 runs, this one has 2,000,000,000"):
        grid_source.build(written(tmp_path, "g.toml", text), [])
    override = f"algorithm = 'qgm'\n[[override]]\nwhen = {{ algorithm = 'qgm' }}\n{text}"
    with pytest.raises(ValueError, match="this one has 2,000,000,000"):
        grid_source.build(written(tmp_path, "h.toml", override), [])
    arguments = [a for n, c in lists.items() for a in (f"--{n}", *map(str, range(1, c + 1)))]
    with pytest.raises(ValueError, match="this one has 10,000,000,000"):
        grid_source.build(None, arguments)
    assert time.monotonic() - begin < 20


def test_no_part_of_tuning_sees_the_test_set(tmp_path: Path) -> None:
    text = "algorithm = 'qgm'\nevaluate_on = 'test'\n[tune]\nlr = [0.1, 0.2]\n"
    text += "[[override]]\nwhen = { algorithm = 'qgm' }\nevaluate_on = 'test'"
    grid = grid_source.build(written(tmp_path, "g.toml", text), ["--evaluate-on", "test"])
    assert {cell.config.evaluate_on for cell in grid.cells()} == {"test"}
    assert {cell.config.evaluate_on for cell in grid.tuning_cells()} == {"validation"}


def test_a_switch_is_given_once() -> None:
    with pytest.raises(ValueError, match="--nesterov is given twice, as --no-nesterov too"):
        grid_source.build(None, ["--nesterov", "--no-nesterov"])
