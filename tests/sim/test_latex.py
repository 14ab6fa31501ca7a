r"""table.tex as a paper takes it: booktabs, $\pm$, the best in bold, chosen columns."""

import re
from pathlib import Path
from typing import Any

import pytest

from fastsaddle.cli import main
from fastsaddle.sim.comparison import latex
from fastsaddle.sim.comparison.grid import Cell
from fastsaddle.sim.comparison.results import MEASURES, Group, Outcome
from fastsaddle.sim.config import TrainConfig


def made(algorithm: str, accuracies: list[float], options: dict[str, Any], **more: float) -> Group:
    outcomes = [
        Outcome(
            Cell(TrainConfig(algorithm=algorithm, seed=seed)),
            [],
            {"accuracy": a, "worst_accuracy": a - 0.1, "bytes": 9e6, **more},
        )
        for seed, a in enumerate(accuracies)
    ]
    return Group({"algorithm": algorithm, **options}, outcomes)


def parsed(text: str) -> tuple[str, list[list[str]]]:
    """The column specification and the cells of every row."""
    match = re.search(r"\\begin\{tabular\}\{([lr]+)\}\n\\toprule\n(.*)\\bottomrule", text, re.S)
    assert match is not None and text.endswith("\\end{tabular}\n")
    lines = [line for line in match[2].splitlines() if line != r"\midrule"]
    assert all(line.endswith(r" \\") for line in lines)
    return match[1], [line.removesuffix(r" \\").split(" & ") for line in lines]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    groups = [
        made("dsgd", [0.90, 0.91], {"alpha": 0.1}, gradient_evaluations=300),
        made("qsaddle", [0.95, 0.962], {"alpha": 0.1}, gradient_evaluations=6000),
        made("relay-sgd", [0.949, 0.96], {"alpha": 0.1}, gradient_evaluations=300),
    ]
    text = latex.table(groups)
    columns, rows = parsed(text)
    assert columns == "llrrrr" and all(len(row) == 6 for row in rows)
    assert rows[0][:3] == ["Algorithm", r"$\alpha$", r"Accuracy (\%)"]
    assert [row[0] for row in rows[1:]] == ["DSGD", "QSADDLe", "RelaySGD"]
    assert rows[2][2] == r"$\mathbf{95.60} \pm 0.85$"
    assert rows[1][2] == r"$90.50 \pm 0.71$"
    # two seeds do not tell 0.1 points from chance
    assert rows[3][2] == r"$95.45 \pm 0.78$\rlap{$^{\dagger}$}"
    # the same everywhere is no achievement, and what is counted does not scatter
    assert [row[4] for row in rows[1:]] == ["$9.0$"] * 3
    assert [row[5] for row in rows[1:]] == [r"$\mathbf{300}$", "$6{,}000$", r"$\mathbf{300}$"]
    assert text.startswith("% needs \\usepackage{booktabs}\n% mean and standard deviation over 2 ")


def test_columns_are_chosen() -> None:
    groups = [
        made("dsgd", [0.9], {}, sam_sharpness=0.02),
        made("qgm", [0.8], {}, sam_sharpness=0.01),
    ]
    columns, rows = parsed(latex.table(groups, ("sam_sharpness", "accuracy", "hessian_trace")))
    assert columns == "lrr" and rows[0][1:] == ["SAM sharpness", r"Accuracy (\%)"]
    assert rows[2][1] == r"$\mathbf{0.0100}$" and r"\dagger" not in rows[1][1]
    assert latex.check_columns(["worst-accuracy", "bytes"]) == ("worst_accuracy", "bytes")
    with pytest.raises(ValueError, match=r"--columns must be of accuracy, best, .*, got 'speed'"):
        latex.check_columns(["speed"])
    with pytest.raises(ValueError, match="--columns must name each column once, got best best"):
        latex.check_columns(["best", "best"])
    assert list(latex.TITLES) == [name for name, *_ in MEASURES]


def test_special_characters_and_diverged_runs() -> None:
    bad = Group({"model": "50%_a&b#~^{x}$\\"}, [Outcome(Cell(TrainConfig()), [], None)])
    good = Group({"model": "mlp"}, [Outcome(Cell(TrainConfig()), [], {"accuracy": 0.9})])
    text = latex.table([bad, good])
    _, rows = parsed(text.replace(r"\&", "AND"))
    assert rows[1] == [
        r"50\%\_aANDb\#\textasciitilde{}\textasciicircum{}\{x\}\$\textbackslash{}",
        "diverged",
    ]
    assert "% 50%_a&b#~^{x}$\\: 1 of 1 runs diverged and are not counted\n" in text


@pytest.mark.usefixtures("one_thread")
def test_the_command_writes_the_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = (
        "--agents",
        "3",
        "--steps",
        "2",
        "--seed",
        "0",
        "--jobs",
        "1",
        "--out",
        str(tmp_path / "c"),
    )
    command = ["compare", "--algorithm", "dsgd", "qgm", *short]
    assert main([*command, "--columns", "best", "bytes"]) == 0
    _, rows = parsed((tmp_path / "c" / "table.tex").read_text())
    assert rows[0] == ["Algorithm", r"Best (\%)", "Sent (MB)"]
    # nothing runs again for another table
    assert main(command) == 0
    assert "2 runs, 2 of them done before" in capsys.readouterr().out
    _, rows = parsed((tmp_path / "c" / "table.tex").read_text())
    assert rows[0][1:] == [latex.TITLES[n] for n in latex.USUAL[:-1]]
    assert main([*command, "--columns", "speed"]) == 2
