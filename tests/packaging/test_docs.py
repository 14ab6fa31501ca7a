"""The code of README.md and of the pages runs as printed, in a folder of its own.

A block of Python, C++ or text whose first line is a comment with a file's name is that file; other blocks of Python run
as they are, section by section, and so do the lines of blocks marked `sh`. Blocks marked `text` are only read.
"""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.graphs.schedule import kind_of
from fastsaddle.graphs.topology import DRAWN
from fastsaddle.sim import choices
from fastsaddle.sim import methods as sim_methods
from fastsaddle.sim.run import messages

ROOT = Path(__file__).parents[2]
README, ADDING = ROOT / "README.md", ROOT / "docs" / "adding.md"
NAMED = re.compile(r"(?:#|//) ([\w/]+\.(?:py|cpp|txt))\b")
PAGES = (
    README,
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs").glob("methods/*.md")),
)


@dataclass(frozen=True)
class Block:
    language: str
    text: str

    @property
    def file(self) -> str | None:
        match = NAMED.match(self.text)
        return match and match[1]


def blocks(text: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)]


def sections(page: Path) -> dict[str, str]:
    """Text by heading of second rank."""
    parts = re.split(r"^## (.*)$", page.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


SECTIONS = sections(ADDING)


def run(text: str, folder: Path) -> None:
    """Write the files of a section and run the rest of it, inside `folder`."""
    names: dict[str, Any] = {}
    for block in blocks(text):
        if block.file is not None:
            (folder / block.file).write_text(block.text)
        elif block.language == "python":
            exec(block.text, names)  # the page is ours
        elif block.language == "sh":
            for line in block.text.splitlines():
                program, *words = shlex.split(line)
                assert program == "fastsaddle"
                if "--out" not in words:
                    words += ["--out", f"run-{len(list(folder.iterdir()))}"]
                assert main(words) == 0


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [name for name in SECTIONS if name != "An op"])
def test_recipes_run(name: str, here: Path, one_thread: None) -> None:
    assert blocks(SECTIONS[name])
    run(SECTIONS[name], here)


def test_readme_runs_and_learns(
    here: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    names: dict[str, Any] = {}
    found = [block.text for block in blocks(README.read_text())]
    assert len(found) == 2
    for text in found:
        exec(text, names)  # the README is ours
    alone, composed = capsys.readouterr().out.splitlines()
    assert float(alone) < 0.1 and float(composed.split()[0]) < 0.1
    # eight bits a number and a scale for each of four tensors, to two neighbors
    numbers = sum(p.numel() for p in names["model"].parameters())
    assert int(composed.split()[1]) == 100 * 16 * 2 * (numbers + 4 * 4)


def test_recipes_of_the_table_of_contents_are_there() -> None:
    listed = re.findall(r"^\* \[(.*?)\]\(#", ADDING.read_text(), flags=re.MULTILINE)
    assert listed == list(SECTIONS)


def test_the_op_passes_the_contract_of_all_ops(tmp_path: Path) -> None:
    """In a checkout that has no C++ but that of the recipe, so that the build is short."""
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns(
        "__pycache__", "_native.so", "_native_build.txt", "native_cpu.cpp"
    )
    for folder in ("fastsaddle", "kernels"):
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    (tree / "tests" / "kernels").mkdir(parents=True)
    for name in ("conftest.py", "kernels/test_ops.py"):
        shutil.copy(ROOT / "tests" / name, tree / "tests" / name)
    for block in blocks(SECTIONS["An op"]):
        if block.file is not None:
            (tree / block.file).parent.mkdir(exist_ok=True)
            (tree / block.file).write_text(block.text)
    (commands,) = [block.text for block in blocks(SECTIONS["An op"]) if block.language == "sh"]
    build, test, interpreted = commands.splitlines()
    quietly = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}

    def call(line: str, *more: str) -> str:
        settings, words = {}, shlex.split(line)
        while "=" in words[0]:
            name, value = words.pop(0).split("=")
            settings[name] = value
        program = {"python": [], "pytest": ["-m", "pytest"]}[words.pop(0)]
        command = [sys.executable, *program, *words, *more]
        done = subprocess.run(
            command, cwd=tree, env={**quietly, **settings}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        return done.stdout

    call(build)
    assert (tree / "fastsaddle" / "_native.so").exists() == (shutil.which("c++") is not None)
    said = call(test, "-q", "-rs", "-p", "no:cacheprovider")
    assert "passed" in said
    if shutil.which("c++"):
        assert "skipped" not in said
    if can_interpret():
        assert "skipped" not in call(interpreted, "-q", "-W", "ignore", "-p", "no:cacheprovider")


def can_interpret() -> bool:
    """Whether Triton is there and its interpreter takes this NumPy."""
    try:
        import numpy as np
        import triton
    except ImportError:
        return False
    triton_, numpy_ = (
        tuple(map(int, v.split(".")[:2])) for v in (triton.__version__, np.__version__)
    )
    return triton_ >= (3, 9) or numpy_ < (2, 4)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        if file.startswith(("http:", "https:")):
            continue
        found = page.parent / file if file else page
        assert found.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", found.read_text(), flags=re.MULTILINE)
            spelled = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads]
            assert anchor in spelled, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_op_is_an_op(page: Path) -> None:
    assert not re.findall(r"\b(?:room|box)(?:s|es)?\b", page.read_text(), flags=re.IGNORECASE)


def table(page: str, head: str) -> list[list[str]]:
    """Cells of the Markdown table whose head begins so, the head included."""
    lines = page[page.index(head) :].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


METHODS = (ROOT / "docs" / "methods.md").read_text()
COMPRESSORS = (ROOT / "docs" / "compressors.md").read_text()
GRADIENTS: dict[str, Any] = {
    "Plain": lambda: fs.gradients.Plain(),
    "SAM": lambda: fs.gradients.SAM(),
    "LookSAM": lambda: fs.gradients.SAM(sam=fs.LookSAM(2)),
    "ESAM": lambda: fs.gradients.SAM(sam=fs.ESAM()),
    "MomentumSAM": lambda: fs.gradients.SAM(sam=fs.MomentumSAM()),
    "Cross": lambda: fs.gradients.Cross(),
    "Mixed": lambda: fs.gradients.Mixed(),
}
RULES: dict[str, Any] = {
    **{name: getattr(fs.rules, name) for name in ("AdaptedMomentum", "MomentumTracking", "QGAdam")},
    "Momentum": lambda: fs.rules.Momentum("local"),
    "GradientTracking": lambda: fs.rules.GradientTracking(0.9),
    "PushPull": fs.rules.PushPull,
    "D2": lambda: fs.rules.D2(0.9),
    "Relay": lambda: fs.rules.Relay(0.9),
    "GUT": fs.rules.GUT,
    "Torch": lambda: fs.rules.Torch(torch.optim.SGD),
}
Q = fs.compressors.StochasticQuantizer(8)
COMMUNICATORS: dict[str, Any] = {
    "None": [None],
    "`Gossip`": [fs.comm.Gossip("chain")],
    "`every`, `rounds`": [fs.comm.Gossip("chain", every=2), fs.comm.Gossip("chain", rounds=2)],
    "`compressor`": [fs.comm.Gossip("chain", compressor=Q)],
    "`Average`, `Elastic`": [fs.comm.Average(), fs.comm.Elastic()],
}


def combines(gradient: Any, rule: Any, communicator: Any) -> bool:
    """Whether an optimizer of these parts can be made."""
    parts = {"gradient": gradient, "rule": rule, "communicator": communicator}
    try:
        fs.Optimizer([torch.nn.Parameter(torch.randn(4, 3))], **parts)
    except ValueError:
        return False
    return True


def test_gradients_go_with_the_rules_that_the_page_names() -> None:
    head, *rows = table(METHODS, "| | `Momentum` |")
    for names, *cells in rows:
        for gradient in re.findall(r"`(\w+)`", names):
            for rule, cell in zip(head[1:], cells, strict=True):
                made = GRADIENTS[gradient](), RULES[rule.strip("`")](), fs.comm.Gossip("chain")
                assert combines(*made) == cell.startswith("yes"), (gradient, rule)
    assert combines(fs.gradients.Mixed(), fs.rules.GUT(), fs.comm.Gossip("chain"))
    assert combines(fs.gradients.Mixed(GRADIENTS["SAM"]()), fs.rules.GUT(), None)
    assert not combines(fs.gradients.Mixed(GRADIENTS["MomentumSAM"]()), fs.rules.GUT(), None)


def test_rules_go_with_the_communicators_that_the_page_names() -> None:
    head, *rows = table(METHODS, "| | None |")
    assert {names.strip("`") for names, *_ in rows} == set(RULES)
    for rule, *cells in rows:
        for named, cell in zip(head[1:], cells, strict=True):
            for communicator in COMMUNICATORS[named]:
                gradient = fs.gradients.Mixed() if rule == "`GUT`" else None
                made = combines(gradient, RULES[rule.strip("`")](), communicator)
                assert made == cell.startswith("yes"), (rule, communicator)


def test_states_have_the_names_of_the_page() -> None:
    for name, _, _, states, _ in table(METHODS, "| optimizer | made of |")[1:]:
        cls = getattr(fs, name.strip("`"))
        p = torch.nn.Parameter(torch.randn(4, 3))
        takes = {"agents": 4} if cls in (fs.LocalSGD, fs.EASGD, fs.DPPF) else {"topology": "chain"}
        kept = set(cls([p], **takes).state[p]) if "the same" not in states else set()
        told = set(re.findall(r"`(\w+)`", re.sub(r" or `\w+`", "", states)))
        assert kept - {"relay_2"} == told, name


def takes(method: str, topology: Any) -> bool:
    try:
        getattr(fs, method)([torch.nn.Parameter(torch.randn(4, 3))], lr=0.1, topology=topology)
    except ValueError:
        return False
    return True


def test_methods_take_the_graphs_that_the_page_names() -> None:
    chain = fs.topology.chain(4)
    graphs = {
        "a tree that stays": chain,
        "symmetric": fs.topology.sequence([fs.topology.fully_connected(4), fs.topology.chain(4)]),
        "doubly stochastic": fs.topology.one_peer_exponential(4),
        "row- or column-stochastic": fs.topology.from_matrix(
            [[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5], [0.3, 0.4, 0, 0.3]],
            directed=True,
        ),
    }
    for name, *_, needed in table(METHODS, "| optimizer | made of |")[1:]:
        if needed != "none":
            # whoever takes the weaker takes the stronger, too
            found = {kind for kind, graph in graphs.items() if takes(name.strip("`"), graph)}
            assert found == set([*graphs][: [*graphs].index(needed) + 1]), name


def test_methods_take_the_faults_that_the_page_names() -> None:
    graphs = {
        name: fs.Faults(**{name: 0.1}).over(fs.topology.chain(4)) for name in ("links", "agents")
    }
    page = (ROOT / "docs" / "graphs.md").read_text()
    named = set()
    for cells, *says in table(page, "| | links | agents |")[1:]:
        for name in re.findall(r"`(\w+)`", cells):
            named.add(name)
            found = [takes(name, graph) for graph in graphs.values()]
            assert found == [said.startswith("yes") for said in says], name
    graph_methods = {
        name.strip("`")
        for name, *_, needed in table(METHODS, "| optimizer | made of |")[1:]
        if needed != "none"
    }
    assert named == graph_methods


def test_schedules_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "graphs.md").read_text()
    found = set()
    for call, texts, kind, *_ in table(page, "| `fs.topology` | `--topology` | W |")[1:]:
        for text in re.findall(r"`([\w:.-]+)`", texts):
            if text == "file.py:name":
                continue
            schedule = fs.topology.parse(text, 12)
            found.add(text.partition(":")[0])
            assert call.strip("`").startswith(schedule.name.partition(":")[0].replace("-", "_"))
            assert {"symmetric": "symmetric doubly stochastic"}.get(
                kind, "doubly stochastic"
            ) == kind_of(schedule)
    assert found == {
        "one-peer-exponential",
        "base-graph",
        *DRAWN,
        "directed-ring",
        "directed-exponential",
    }


def test_lines_of_metrics_have_the_keys_of_the_page(here: Path, one_thread: None) -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    options = ("--agents", "4", "--steps", "4", "--faults", "links:0.1")
    assert main(["train", *options, "--out", "run"]) == 0
    row = json.loads((here / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    told = [key for cells in table(page, "| key |")[1:] for key in re.findall(r"`(\w+)`", cells[0])]
    assert told == list(row)
    files = [cells[0] for cells in table(page, "| file | content |")[1:]]
    named = {name for cell in files for name in re.findall(r"`([\w.-]+)`", cell)}
    found = {re.sub(r"-\d+\.", "-STEP.", path.name) for path in (here / "run").iterdir()}
    assert found == named


@pytest.mark.filterwarnings("ignore:(?s).*There is a performance drop:UserWarning")
@pytest.mark.parametrize(
    "name",
    [
        "coming-from.md",
        "command-line.md",
        "compressors.md",
        "concepts.md",
        "graphs.md",
        "index.md",
        "methods.md",
        "observability.md",
        "ops.md",
        "python.md",
        "questions.md",
        "sharpness.md",
        "stacks.md",
        "start.md",
    ],
)
def test_code_of_other_pages_runs(name: str, here: Path, one_thread: None) -> None:
    run((ROOT / "docs" / name).read_text(), here)


@pytest.mark.parametrize(
    ("page", "name"), [("ranks.md", "two_ranks.py"), ("coming-from.md", "decentralized.py")]
)
def test_scripts_of_pages_run_over_two_processes(page: str, name: str, here: Path) -> None:
    (script,) = [b.text for b in blocks((ROOT / "docs" / page).read_text()) if b.file == name]
    (here / name).write_text(script)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", name],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_lines_of_the_first_page_are_what_train_says(here: Path, one_thread: None) -> None:
    page = (ROOT / "docs" / "start.md").read_text()
    told = re.findall(
        r"^step +(\d+)/600 .*?consensus accuracy ([\d.]+)%.*?worst ([\d.]+)%.*?([\d.]+) MB sent$",
        page,
        re.MULTILINE,
    )
    assert [int(step) for step, *_ in told] == [0, 300, 600]
    assert main(["train", "--out", "run"]) == 0
    rows = map(json.loads, (here / "run" / "metrics.jsonl").read_text().splitlines())
    found = {row["step"]: row for row in rows}
    for step, consensus, worst, megabytes in told:
        row = found[int(step)]
        # another processor may round otherwise
        assert 100 * row["consensus_accuracy"] == pytest.approx(float(consensus), abs=1.5)
        assert 100 * row["worst_accuracy"] == pytest.approx(float(worst), abs=2.5)
        assert row["bytes_sent"] / 1e6 == pytest.approx(float(megabytes), abs=0.05)


def test_the_first_page_compares_as_compare_does(here: Path) -> None:
    page = (ROOT / "docs" / "start.md").read_text()
    told = dict(re.findall(r"^ (dsgd|qsaddle) +([\d.]+) ± ", page, re.MULTILINE))
    assert main(["compare", "--algorithm", "dsgd", "qsaddle", "--seed", "0", "1", "2"]) == 0
    (file,) = here.glob("runs/*/table.csv")
    with file.open(newline="") as stream:
        found = {r["algorithm"]: 100 * float(r["accuracy"]) for r in csv.DictReader(stream)}
    assert {name: float(text) for name, text in told.items()} == pytest.approx(found, abs=1.0)


def test_the_memory_of_the_page_is_what_info_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "questions.md").read_text()
    (command,) = re.findall(r"^    fastsaddle (info --model .*)$", page, re.MULTILINE)
    assert main(shlex.split(command)) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "links" not in line]
    told = page[page.index("resnet20, samples") :].split("```")[0].splitlines()
    assert told == said[: len(told)]


def test_the_front_pictures_are_what_the_tables_say() -> None:
    specification = spec_from_file_location("front_picture", ROOT / "docs" / "front_picture.py")
    assert specification is not None and specification.loader is not None
    pictures = sys.modules["front_picture"] = module_from_spec(specification)
    specification.loader.exec_module(pictures)
    for name, drawn in pictures.pages().items():
        told = f"docs/{name} is not what the tables say: python docs/front_picture.py"
        assert (ROOT / "docs" / name).read_text() == drawn, told


def test_the_trace_of_the_page_is_that_of_its_step(
    here: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    page = sections(ROOT / "docs" / "observability.md")["Profiling"]
    run(page, here)
    (trace,) = [block.text for block in blocks(page) if block.language == "text"]
    assert capsys.readouterr().out == trace


def test_the_page_of_ops_is_what_they_say() -> None:
    spec = spec_from_file_location("ops_page", ROOT / "docs" / "ops.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    told = "docs/ops.md is not what ops say: python docs/ops.py > docs/ops.md"
    assert (ROOT / "docs" / "ops.md").read_text() == module.page(), told


def test_times_of_ops_are_those_of_the_measured_page() -> None:
    page, found = (ROOT / "docs" / "ops.md").read_text(), 0
    measured = (ROOT / "docs" / "measured.md").read_text()
    for name, _, _, time, percent in table(page, "| op | what it does |")[1:]:
        if time:
            found += 1
            op = re.findall(r"`(\w+)`", name)[0]
            line = rf"\| {op} \| native \| 16 x 1,000,000 \| {time} \| [\d.]+ \| {percent} \|"
            assert re.search(line, measured), op
    assert found >= 15


def test_options_have_the_choices_of_the_page() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    cells = {option.strip("`"): rest for option, rest in table(page, "| option |")[1:]}
    folders = {"--dataset": "datasets", "--model": "networks", "--partition": "partitions"}
    for option, folder in {**folders, "--engine": "engines"}.items():
        told = {name.split(":")[0] for name in re.findall(r"`([\w:-]+)`", cells[option])}
        assert set(choices.names(folder)) <= told, option
    assert set(choices.names("feature_skews")) == {"rotation", "color", "noise"}
    for text in re.findall(r"`([\w:.=-]+)`", cells["--compressor"]):
        assert text == "none" or messages.find(text)()
    for text in re.findall(r"`([\w:.]+)`", cells["--sam"]):
        assert sim_methods.parse_sam(text)


def test_messages_have_the_sizes_of_the_page() -> None:
    made = fs.compressors
    (eight, four, two), whole, top, random, sign = (
        tuple(made.StochasticQuantizer(bits) for bits in (8, 4, 2)),
        made.StochasticQuantizer(8, bucket=None, norm="l2", levels=255),
        *(made.TopK(0.1), made.RandomK(0.1), made.Sign()),
    )
    shares = [c.wire_bytes(10**6) / 4e6 for c in (eight, four, two, whole, top, random, sign)]
    cells = " ".join(row[1] for row in table(COMPRESSORS, "| compressor |")[1:])
    assert [float(n) for n in re.findall(r"\b0\.\d+", cells)] == pytest.approx(shares, abs=5e-4)


@pytest.mark.parametrize(
    ("compressor", "gamma", "learns"),
    [
        ("sign", "0.4", True),
        ("top-k:0.1", "0.2", True),
        ("top-k:0.1", "1", False),
        ("stochastic-quantizer:2:biased=true", "0.1", True),
        ("stochastic-quantizer:2", "1", False),
        ("stochastic-quantizer:4", "1", True),
    ],
)
def test_consensus_steps_of_the_page_train(
    compressor: str, gamma: str, learns: bool, here: Path, one_thread: None
) -> None:
    options = ("--compressor", compressor, "--consensus-step", gamma, "--steps", "100")
    # signs go without quasi-global momentum
    options += ("--algorithm", "dsgdm") if compressor == "sign" else ()
    status = main(["train", *options, "--eval-every", "100", "--out", "run"])
    row = json.loads((here / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (status == 0 and row["consensus_accuracy"] > 0.85) == learns
