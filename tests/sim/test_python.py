"""Whole runs and comparisons from Python: what the command does, to the bit, as objects."""

import inspect
import json
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim.api import options, tables
from fastsaddle.sim.config import DEFAULTS, TrainConfig
from fastsaddle.sim.run import checkpoint, devices, job
from fastsaddle.sim.run.job import Job

OPTIONS: dict[str, Any] = {"agents": 4, "steps": 12, "eval_every": 6, "algorithm": "qsaddle"}
WORDS = ("--agents", "4", "--steps", "12", "--eval-every", "6", "--algorithm", "qsaddle")

pytestmark = pytest.mark.usefixtures("one_thread")


def timeless(path: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fs.sim.Run:
    return fs.sim.train(**OPTIONS, out=tmp_path_factory.mktemp("python") / "run", quiet=True)


def test_a_run_is_that_of_the_command(run: fs.sim.Run, tmp_path: Path) -> None:
    assert main(["train", *WORDS, "--out", str(tmp_path / "run")]) == 0
    there = tmp_path / "run"
    assert timeless(run.directory) == timeless(there)
    name = "checkpoint-12.safetensors"
    assert (run.directory / name).read_bytes() == (there / name).read_bytes()
    assert {p.name for p in run.directory.iterdir()} == {p.name for p in there.iterdir()}
    assert run.is_finished and run.state == "finished" and run.options.agents == 4
    assert run.rows[-1]["step"] == 12 and "consensus accuracy" in repr(run)


@pytest.mark.parametrize("algorithm", ["qsaddle", "easgd"])
@pytest.mark.parametrize("network", ["mlp", "with BatchNorm"])
def test_models_have_the_bits_of_the_runs_consensus(
    algorithm: str, network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "algorithm": algorithm, "steps": 3, "eval_every": 3}
    if network != "mlp":
        (tmp_path / "net.py").write_text(
            "from torch import nn\n"
            "def net(classes, seed=0):\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.BatchNorm1d(9), nn.Linear(9, classes))\n"
        )
        options["model"] = f"{tmp_path / 'net.py'}:net"
    found: list[Job] = []
    start = job.start
    monkeypatch.setattr(job, "start", lambda *given: found.append(start(*given)) or found[-1])
    run = fs.sim.train(**options, out=tmp_path / "run", quiet=True)
    simulation = found[0].simulation
    own = simulation.consensus()
    for name, value in run.model().named_parameters():
        assert torch.equal(value, dict(own.named_parameters())[name]), name
    for agent in range(4):
        mine = simulation.stack.agent(agent).state_dict()
        assert all(torch.equal(v, mine[n]) for n, v in run.model(agent).state_dict().items())
    # the module evaluates as the run did
    data = simulation.dataset
    with torch.no_grad():
        right = run.model()(data.test_inputs).argmax(1) == data.test_labels
    assert right.float().mean().item() == pytest.approx(run.rows[-1]["consensus_accuracy"])
    with pytest.raises(ValueError, match="agents are 0 to 3, got 4"):
        run.model(4)


def test_every_option_of_the_command_is_taken(tmp_path: Path) -> None:
    from fastsaddle.sim.api import options

    given = {name: value for name, value in DEFAULTS.items() if name not in ("out", "resume")}
    assert options.config("train", given) == options.config("train", {})
    assert "given" in inspect.signature(fs.sim.train).parameters
    with pytest.raises(TypeError, match="has no option 'agnts'; agents is one"):
        fs.sim.train(agnts=4)
    with pytest.raises(TypeError, match="has no option 'resume'"):
        fs.sim.compare(resume="x")
    for bad, said in (
        ({"agents": 0}, "--agents must be >= 1, got 0"),
        ({"agents": 2.5}, "--agents must be int, got '2.5'"),
        ({"topology": fs.topology.ring(4)}, "topology must be text, a number or a flag"),
        ({"timeout": "soon"}, "timeout"),
        ({"algorithm": "qgm", "rho": 0.1}, "qgm takes no --rho"),
        ({"resume": tmp_path, "lr": 0.1}, "--resume takes no other option"),
    ):
        with pytest.raises(ValueError, match=said):
            fs.sim.train(**bad, out=tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_numbers_and_series_of_numpy_are_values() -> None:
    from fastsaddle.sim.api import options

    given = {"agents": np.int64(4), "lr": np.float64(0.5), "nesterov": np.bool_(True)}
    assert options.config("train", given) == TrainConfig(agents=4, lr=0.5, nesterov=True)
    for several, words in (
        (range(2), ["0", "1"]),
        (np.array([3, 4]), ["3", "4"]),
        (np.array([0.1, 1]), ["0.1", "1.0"]),
        ((True, False), ["true", "false"]),
        ("ring", ["ring"]),
    ):
        assert options.texts({"split_seed": several}) == ["--split-seed", *words]
    with pytest.raises(ValueError, match="jobs must be int or null, got 'two'"):
        fs.sim.compare(jobs="two")  # type: ignore[arg-type]


class Interrupting(fs.sim.Observer):
    """Presses Ctrl-C after a step, and notes what it is told."""

    def __init__(self, at: int) -> None:
        self.at, self.steps, self.evaluated = at, [], []

    def show_step(self, step: int, loss: torch.Tensor, seconds: float) -> None:
        self.steps.append(step)
        assert loss.ndim == 0
        if step == self.at:
            signal.raise_signal(signal.SIGINT)

    def show_evaluation(self, row: dict[str, Any]) -> None:
        self.evaluated.append(row["step"])


def test_ctrl_c_leaves_a_checkpoint_and_the_run_goes_on(run: fs.sim.Run, tmp_path: Path) -> None:
    out, observer = tmp_path / "run", Interrupting(5)
    with pytest.raises(
        KeyboardInterrupt, match=r"stopped at step 5; go on with fs\.sim\.train\(resume="
    ):
        fs.sim.train(**OPTIONS, out=out, quiet=True, observers=[observer])
    assert observer.steps == [1, 2, 3, 4, 5] and observer.evaluated == [0]
    assert checkpoint.find(out)[0][0] == 5
    assert not fs.sim.load(out).is_finished
    again = fs.sim.train(resume=out, quiet=True)
    assert again.is_finished and timeless(out) == timeless(run.directory)
    assert fs.sim.train(resume=str(out), quiet=True).directory == out


def test_what_an_observer_raises_ends_the_run(tmp_path: Path) -> None:
    class Broken(fs.sim.Observer):
        def show_evaluation(self, row: dict[str, Any]) -> None:
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        fs.sim.train(**OPTIONS, out=tmp_path / "run", quiet=True, observers=[Broken()])
    # nobody holds it
    assert fs.sim.train(resume=tmp_path / "run", quiet=True).is_finished


def test_a_run_leaves_torch_as_it_was_and_works_in_a_thread(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    state = torch.get_rng_state()
    found: list[fs.sim.Run] = []

    def work() -> None:
        found.append(fs.sim.train(**OPTIONS, threads=2, out=tmp_path / "run", quiet=True))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].is_finished and torch.get_num_threads() == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")


def test_what_a_run_on_a_gpu_sets_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = job.start

    def as_on_a_gpu(*given: Any) -> Job:
        devices._repeat_bits()
        return start(*given)

    monkeypatch.setattr(job, "start", as_on_a_gpu)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    fs.sim.train(**OPTIONS, out=tmp_path / "run", quiet=True)
    assert torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


def test_quiet_runs_in_threads_leave_the_output_alone(tmp_path: Path) -> None:
    before = sys.stdout, sys.stderr
    values: dict[str, Any] = {"agents": 2, "steps": 2, "quiet": True}
    threads = [
        threading.Thread(target=fs.sim.train, kwargs={**values, "out": tmp_path / str(number)})
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sys.stdout, sys.stderr) == before
    assert all(fs.sim.load(tmp_path / str(number)).is_finished for number in range(4))


def test_a_kept_exception_keeps_no_run_locked(run: fs.sim.Run) -> None:
    """As a notebook keeps the last one, with all that its traceback refers to."""
    with pytest.raises(ValueError, match="fewer than the 12") as kept:
        fs.sim.train(resume=run.directory, steps=2, quiet=True)
    assert fs.sim.train(resume=run.directory, quiet=True).is_finished
    assert kept.tb is not None


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    values = {"agents": np.int64(2), "steps": np.int32(1), "lr": np.float64(0.5)}
    found = fs.sim.train(**values, nesterov=np.False_, out=tmp_path / "run", quiet=True).options
    assert (found.agents, found.steps, found.lr, found.nesterov) == (2, 1, 0.5, False)
    for given in (range(2), np.arange(2), (0, np.int64(1))):
        assert options.texts({"seed": given}) == ["--seed", "0", "1"]


@pytest.mark.parametrize(
    ("call", "given", "message"),
    [
        (fs.sim.train, {"out": 5}, "out must be a path, got 5"),
        (fs.sim.train, {"agents": "four"}, "--agents must be int, got 'four'"),
        (fs.sim.train, {"augment": "twist"}, "--augment must be .*'crop'.*, got 'twist'"),
        (fs.sim.compare, {"grid": 5}, "grid must be a path, got 5"),
        (fs.sim.compare, {"jobs": "two"}, "jobs must be int or null, got 'two'"),
        (fs.sim.compare, {"minutes": True}, "minutes must be float or null, got True"),
    ],
)
def test_values_of_other_types_are_refused(
    call: Any, given: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=message):
        call(**given, quiet=True)
    assert capfd.readouterr() == ("", "")


def test_a_deadline_leaves_a_run_that_is_not_finished(tmp_path: Path) -> None:
    options = {**OPTIONS, "steps": 10**6, "eval_every": 10**6}
    run = fs.sim.train(**options, out=tmp_path / "run", minutes=1e-3, quiet=True)
    assert not run.is_finished and run.state.startswith("at step")


def test_a_comparison_from_a_script_without_a_guard(tmp_path: Path) -> None:
    """Processes that start by running the script again would start comparisons of their own."""
    (tmp_path / "script.py").write_text(
        "import fastsaddle as fs\n"
        "found = fs.sim.compare(algorithm=['dsgd', 'qgm'], seed=[0, 1], agents=4, steps=4, out='c')\n"
        "print(found, len(found.runs), found.is_finished)\n"
        "for row in found.rows: print(row['algorithm'], row['runs'])\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4 runs, 0 of them done before") == 1
    assert done.stdout.endswith("<Comparison c: 4 runs> 4 True\ndsgd 2\nqgm 2\n")
    found = fs.sim.load(tmp_path / "c")
    assert isinstance(found, fs.sim.Comparison)
    html = found._repr_html_()
    assert "<script" not in html and "consensus accuracy" in html and "image/png" in html
    assert [run.options.seed for run in found.runs] == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="qgm takes no --rho"):
        fs.sim.compare(algorithm="qgm", rho=0.1, out=tmp_path / "none", quiet=True)
    with pytest.raises(ValueError, match="is no comparison"):
        fs.sim.Comparison(tmp_path)
    with pytest.raises(ValueError, match="is neither a run"):
        fs.sim.load(tmp_path)


def test_ctrl_c_stops_a_comparison_with_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import fastsaddle as fs\n"
        "fs.sim.compare(algorithm='qgm', seed=0, agents=4, steps=10**6, eval_every=10**6, out='c')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "script.py"],
        **{"cwd": tmp_path, "text": True, "start_new_session": True},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        end = time.monotonic() + 300
        # written by the first evaluation, after which steps are made
        while not list(tmp_path.glob("c/cells/*/metrics.jsonl")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert "KeyboardInterrupt: stopped; the same call goes on" in err
    assert "stopping after what each run is at" in out
    (cell,) = tmp_path.glob("c/cells/*")
    assert checkpoint.find(cell)[0][0] > 0


def test_tables_are_frames_where_pandas_is(
    run: fs.sim.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    assert isinstance(run.metrics, pandas.DataFrame) and list(run.metrics.index) == [0, 6, 12]
    assert list(run.split.table.columns) == [str(n) for n in range(10)]
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    assert run.metrics == run.rows


def test_what_notebooks_show(run: fs.sim.Run, tmp_path: Path) -> None:
    for shown in (
        run,
        run.split,
        fs.topology.torus(4, 4),
        fs.topology.directed_ring(5),
        fs.topology.one_peer_exponential(8),
        fs.topology.matchings(6, seed=1),
        fs.topology.fully_connected(100),
    ):
        html = shown._repr_html_()
        assert "<script" not in html and "http" not in html and html.startswith("<div>")
    assert run.plot()._repr_png_().startswith(b"\x89PNG")
    assert pickle.loads(pickle.dumps(run.plot()))._repr_png_().startswith(b"\x89PNG")
    assert run.split.plot()._repr_png_().startswith(b"\x89PNG")
    assert run.report(tmp_path / "page.html", surface=False) == tmp_path / "page.html"


def test_the_simulator_is_loaded_when_it_is_asked_for() -> None:
    code = (
        "import sys, fastsaddle as fs\n"
        "assert 'fastsaddle.sim' not in sys.modules and 'matplotlib' not in sys.modules\n"
        "fs.sim\n"
        "assert 'rich' not in sys.modules and 'train' in dir(fs.sim) and 'sim' in dir(fs)\n"
        "sys.modules['tyro'] = None\n"
        "import importlib.util, fastsaddle.sim.extra as extra\n"
        "extra.find_spec = lambda name: None\n"
        "try: fs.sim.train\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fs.sim.train needs filelock, jinja2")
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        fs.sim.trian  # noqa: B018


def test_a_comparison_whose_time_is_up_is_one_without_results(tmp_path: Path) -> None:
    """Before anything is evaluated, and while options are still tuned."""
    (tmp_path / "tuned.toml").write_text("[tune]\nlr = [0.1, 0.2]\n")
    for grid in (None, tmp_path / "tuned.toml"):
        found = fs.sim.compare(
            *([] if grid is None else [grid]),
            **{"algorithm": ["dsgd", "qgm"], "agents": 4, "steps": 10**6, "eval_every": 10**6},
            out=tmp_path / f"of {grid and grid.stem}",
            minutes=1e-4,
            quiet=True,
        )
        assert not found.is_finished and found.rows == [] and found.runs == []
        assert "no run has been evaluated yet" in found._repr_html_()
        with pytest.raises(ValueError, match="no run has been evaluated yet in"):
            found.plot()
        with pytest.raises(ValueError, match="no run has been evaluated yet in"):
            found.report()
