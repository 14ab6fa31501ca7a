"""Each optimizer's page says what the optimizer does: gradients, messages, rows, state, times and accuracies."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim import methods
from tests.packaging.test_docs import METHODS, Block, blocks, table

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "methods"
NAMES = methods.names()
PAGES = {name: (FOLDER / f"{name}.md").read_text() for name in NAMES}
COMPRESSORS = (ROOT / "docs" / "compressors.md").read_text()
WITH_EQUATIONS = (
    *FOLDER.glob("*.md"),
    *(ROOT / "docs" / f"{name}.md" for name in ("methods", "compressors", "sharpness")),
)
AGENTS, DEGREE, NUMBERS = 6, 2, 32
MEASURED = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())["benchmarks"]
MEETING = ("local-sgd", "easgd", "dppf")
# a whole run's options, which come last and are those that count
QUICK = ("--steps", "2", "--agents", "4", "--model", "mlp:8", "--eval-every", "2")


def facts(name: str) -> dict[str, str]:
    """The page's first table; a key is its cell's first words."""
    rows = table(PAGES[name], "| at a glance |")[1:]
    return {re.split(r"[ \[]*\[| of ", key)[0].strip(): value for key, value in rows}


def made(name: str) -> Any:
    """The optimizer of a few agents on a ring, or a tree where it needs one."""
    p = torch.nn.Parameter(torch.randn(AGENTS, NUMBERS))
    cls = methods.find(name).function
    if name in MEETING:
        return cls([p], agents=AGENTS, period=1)
    return cls([p], topology="chain" if name == "relay-sgd" else "ring")


def stepped(name: str) -> tuple[Any, int]:
    """The optimizer after a step, and how often it called the closure."""
    optimizer, calls = made(name), 0

    def closure() -> torch.Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        (p,) = optimizer.parameters
        loss = (p**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return optimizer, calls


def test_each_optimizer_has_its_page() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == set(NAMES)
    listed = [
        re.findall(r"\(methods/([\w-]+)\.md\)", row[0])[0]
        for row in table(METHODS, "| method |")[1:]
    ]
    in_tree = re.findall(r"^methods/([\w-]+)$", METHODS, flags=re.MULTILINE)
    assert sorted(listed) == sorted(in_tree) == sorted(NAMES)
    assert len(table(METHODS, "| optimizer | made of |")[1:]) == len(NAMES)


@pytest.mark.filterwarnings("ignore:.*eigenvalue")
@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_messages_are_those_of_the_page(name: str) -> None:
    told, (optimizer, calls) = facts(name), stepped(name)
    gradients = told["gradients a step"].replace(" (", " * (").replace("degree", str(DEGREE))
    assert calls == eval(gradients) == optimizer.evaluations
    rows = re.match(r"(\d) rows? (?:to each neighbor|along each edge)", told["sent in a step"])
    edges = 2 * (AGENTS - 1) if name == "relay-sgd" else AGENTS * DEGREE
    if name in MEETING:
        assert told["sent in a step"].startswith("2 (n - 1) rows by all n agents together")
        expected = 2 * (AGENTS - 1)
    else:
        assert rows
        expected = int(rows[1]) * edges
    assert optimizer.bytes_sent == expected * 4 * NUMBERS


@pytest.mark.parametrize("name", NAMES)
def test_rows_state_and_graph_are_those_of_the_table(name: str) -> None:
    told = facts(name)
    cls = methods.find(name).function.__name__
    (row,) = [row for row in table(METHODS, "| optimizer | made of |") if row[0] == f"`{cls}`"]
    _, parts, rows, state, graph = row
    assert f"[`fs.{cls}`]" in told["optimizer"]
    assert told["kept beside x and g"].replace(" rows", "").replace(" row", "", 1) == rows
    states = [set(re.findall(r"`(\w+)`", text)) for text in (state, told["state"])]
    assert state == "the same" or states[0] == states[1]
    assert told["mixing matrix"].startswith(graph)
    for part in re.findall(r"`([^`]+)`", parts):
        assert f"`{part}`" in told["optimizer"], part


def test_times_are_those_measured() -> None:
    found = {
        b["name"].split("-")[-1][:-1]: b
        for b in MEASURED
        if b["name"].startswith("test_optimizer_step[16-1000000-")
    }
    for name in NAMES:
        cls = methods.find(name).function.__name__
        text = facts(name).get("a step")
        assert (cls in found) == (text is not None), name
        if text is not None:
            case = found[cls]
            time = f"{1000 * case['stats']['median']:.2f} ms"
            assert text.startswith(f"{time}, {case['extra_info']['percent_of_copy']:.0f} % of copy")


def test_accuracies_are_those_of_the_comparison() -> None:
    with (ROOT / "benchmarks/reproduction/all_systems/table.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["sam"] in ("", "full")]
    for name in NAMES:
        mine = {r["alpha"]: r for r in rows if r["algorithm"] == name.replace("-", "")}
        pairs = [
            f"{100 * float(mine[a]['accuracy']):.2f} ± {100 * float(mine[a]['accuracy_deviation']):.2f}"
            for a in ("0.1", "0.01")
            if mine
        ]
        assert facts(name).get("accuracy", "") == " and ".join(pairs), name


def test_percentages_in_the_text_are_quoted_from_the_evidence() -> None:
    evidence = (ROOT / "docs" / "evidence.md").read_text()
    for name, page in PAGES.items():
        for number in re.findall(r"\b\d\d\.\d\d\b(?! ms)", page):
            assert number in evidence, (name, number)


def words_of(block: Block) -> list[str]:
    (line,) = block.text.splitlines()
    return line.split()


@pytest.mark.filterwarnings("ignore:.*eigenvalue")
@pytest.mark.parametrize("name", NAMES)
def test_its_code_and_command_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.chdir(tmp_path)
    code, command = blocks(PAGES[name])
    exec(code.text, {})  # the page is ours
    program, *words = words_of(command)
    assert program == "fastsaddle" and words[:3] == ["train", "--algorithm", name]
    assert main([*words, *QUICK, "--out", "run"]) == 0


def test_the_page_of_compressors_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(COMPRESSORS):
        if block.language == "python":
            exec(block.text, names)  # the page is ours
        elif block.language == "sh":
            assert main([*words_of(block)[1:], *QUICK, "--out", "run"]) == 0


def test_claims_and_times_of_compressors_are_those_of_the_page() -> None:
    for bits, levels, omega, delta in table(COMPRESSORS, "| bits |")[1:]:
        plain = fs.compressors.StochasticQuantizer(int(bits))
        biased = fs.compressors.StochasticQuantizer(int(bits), biased=True)
        assert plain.most == int(levels)
        assert plain.omega(10**6) == pytest.approx(float(omega), rel=5e-3)
        assert biased.delta(10**6) == pytest.approx(float(delta), abs=5e-4)
    found = {b["name"]: 1000 * b["stats"]["median"] for b in MEASURED}
    names = ("8 bits", "4 bits", "2 bits", "top-k 10%", "random-k 10%", "sign")
    expected = [f"{found[f'test_encode[16-1000000-fastsaddle-encode, {n}]']:.2f}" for n in names]
    cells = " ".join(row[3] for row in table(COMPRESSORS, "| compressor |")[1:])
    assert re.findall(r"[\d.]+", cells) == expected


@pytest.mark.parametrize("path", WITH_EQUATIONS, ids=lambda path: path.name)
def test_equations_are_left_alone_by_markdown(path: Path) -> None:
    """GitHub reads escapes and emphasis of Markdown before mathematics."""
    text = re.sub(r"```.*?```|`[^`]*`", "", path.read_text(), flags=re.DOTALL)
    for equation in re.findall(r"\$\$.*?\$\$|\$[^$]+\$", text, flags=re.DOTALL):
        assert not re.search(r"\\[^a-zA-Z]|[^\w]_|\*|\\operatorname", equation), equation
        # docutils puts an index of an accented letter under it
        assert not re.search(r"\\(?:hat|tilde|bar) \w[_^]", equation), equation
