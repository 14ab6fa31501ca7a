"""What a run would take is told before anything of its size, or its directory, is made; numbers have bounds."""

import resource
import sys
from pathlib import Path

import pytest
import torch

import fastsaddle as fs
from fastsaddle.cli import main
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.data.agent_data import load
from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.run import memory_needed
from fastsaddle.sim.run.memory_needed import free_bytes, kept_rows, shapes
from fastsaddle.sim.run.simulation import Simulation

CPU = torch.device("cpu")
OWN = """
import torch

class Wide(torch.nn.Module):
    def __init__(self, shape, classes, width: int = 4):
        super().__init__()
        self.body = torch.nn.Linear(shape[-1] * shape[-2], width)
        self.head = torch.nn.Linear(width, classes)
        # not without values
        self.scale = float(self.head.weight.abs().max())

    def forward(self, x):
        return self.head(self.body(x.flatten(1))) * self.scale
"""


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ("--lr 1e308", "--lr must be at most 3e+38, got 1e+308"),
        ("--epochs 1e308", "--epochs must be at most 3e+38"),
        ("--epochs 1e30", "--epochs 1e+30 are more than 1,000,000,000,000 steps"),
        ("--epochs inf", "--epochs must be finite and > 0, got inf"),
        ("--steps 10000000000000", "--steps must be at most 1,000,000,000,000, got 10000000000000"),
        ("--rho 1e39", "--rho must be at most 3e+38"),
        ("--weight-decay 1e39", "--weight-decay must be at most 3e+38"),
        ("--alpha 1e308", "--alpha must be at most 3e+38"),
        ("--seed 9223372036854775808", "--seed must be at most"),
        ("--seed 4294967296", "--seed or --split-seed must be below 2^32 for a Dirichlet split"),
        ("--threads 1000000", "--threads must be at most 1,024, got 1000000"),
        ("--agents 1000000000", "agents must be between 1 and the 1433 training samples"),
        (
            "--batch-size 1000000000",
            "batches of 1,000,000,000 samples for 16 agents take 4.35 TB of memory, ",
        ),
        (
            "--model mlp:1000000000",
            "16 agents of mlp:1000000000 (75,000,000,010 parameters, 4 rows each) take 19.20 TB of",
        ),
        ("--model mlp:1000000000 --agents 1", "1 agent of mlp:1000000000 (75,000,000,010 param"),
        ("--topology torus:1000000x1000000", "has 1000000000000 agents, but 16 are needed"),
    ],
)
def test_it_is_refused_in_one_line_and_takes_no_memory(
    options: str,
    rule: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    kilobytes = 1 if sys.platform != "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["train", *options.split()]) == 2
    said = capsys.readouterr()
    assert rule in said.err and said.err.count("\n") == 1 and not said.out
    assert not list(tmp_path.iterdir())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000 * kilobytes


def test_what_is_free_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(agents=12, algorithm="ngm", compressor="sign", model="mlp:100")
    data = load(config, CPU)
    layout, _ = shapes("mlp:100", data.shape, 10)
    needed = int(12 * kept_rows(config) * layout.stride * 4)
    # what a run of it holds
    optimizer = Simulation(config).optimizer
    assert memory_needed.resident_bytes(optimizer) == needed
    monkeypatch.setattr(memory_needed, "free_bytes", lambda device: needed)
    memory_needed.check(config, data, CPU)
    monkeypatch.setattr(memory_needed, "free_bytes", lambda device: needed - 1)
    with pytest.raises(ValueError, match=r"12 agents of mlp:100 \(7,510 parameters, .* take"):
        memory_needed.check(config, data, CPU)
    monkeypatch.setattr(memory_needed, "free_bytes", lambda device: 4 * 8 * 12**2 - 1)
    with pytest.raises(ValueError, match=r"mixing matrices of 12 agents take .* use fewer"):
        memory_needed.check(TrainConfig(agents=12, batch_size=1), load(config, CPU), CPU)
    # where the system does not tell, nothing is refused
    monkeypatch.setattr(memory_needed, "free_bytes", lambda device: None)
    memory_needed.check(TrainConfig(model="mlp:1000000000"), data, CPU)


def test_batches_of_pixels_count_as_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.zeros(9, 2, 5, 3, dtype=torch.uint8), torch.arange(9) % 2
    parts = images[:6], labels[:6], images[6:], labels[6:]
    data = Dataset("mine", ("a", "b"), *parts, table=torch.ones(2, 256))
    config = TrainConfig(agents=3, batch_size=100_000)
    # its label and its index as well
    needed = 3 * 100_000 * (4 * 30 + 16)
    monkeypatch.setattr(memory_needed, "free_bytes", lambda device: needed)
    memory_needed.check(config, data, CPU)
    monkeypatch.setattr(memory_needed, "free_bytes", lambda device: needed - 1)
    with pytest.raises(ValueError, match=r"batches of 100,000 samples for 3 agents take 40.80 MB"):
        memory_needed.check(config, data, CPU)


def test_networks_are_measured_without_their_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mlp", "lenet5", "cnn5", "resnet20", "resnet20:groupnorm", "resnet18", "vgg11"):
        layout, buffers = shapes(name, (3, 32, 32), 10)
        stack = fs.AgentStack(memory_needed.initial_models.build(name, (3, 32, 32), 10, 0), 1)
        assert layout == stack.layout
        assert buffers == sum(b.nbytes for b in stack.buffers.values())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wide.py").write_text(OWN)
    assert shapes("wide.py:Wide:7", (1, 8, 8), 3)[0].dim == 65 * 7 + 8 * 3


def test_info_makes_nothing_of_that_size(capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["info", "--model", "mlp:1000000000", "--agents", "1"]) == 0
    assert "1 agent: 49.33 TB, without" in capsys.readouterr().out
    for algorithm in ("qgm", "local-sgd"):
        assert main(["info", "--model=mlp", "--algorithm", algorithm, "--agents=1000000000"]) == 2
        assert "--agents must be at most 20,000" in capsys.readouterr().err
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def group(root: Path, place: str, **files: str) -> None:
    folder = root / "sys/fs/cgroup" / place.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_dot_", ".")).write_text(text)


def test_limits_of_containers_count(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal: 100 kB\nMemAvailable:    9000000 kB\nSwapFree: 1000000 kB\n"
    )
    assert free_bytes(CPU, tmp_path) == 10_000_000 * 1024
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    stat = "anon 5\ninactive_file 300\nactive_file 7\n"
    group(tmp_path, "/a/b", memory_dot_max="max\n", memory_dot_current="10", memory_dot_stat=stat)
    assert free_bytes(CPU, tmp_path) == 10_000_000 * 1024
    group(tmp_path, "/a", memory_dot_max="5000\n", memory_dot_current="1000", memory_dot_stat=stat)
    assert free_bytes(CPU, tmp_path) == 5000 - 1000 + 300
    # in a container the path is not there, and its own group lies at the top
    (tmp_path / "proc/self/cgroup").write_text("0::/not/here\n")
    assert free_bytes(CPU, tmp_path) == 10_000_000 * 1024
    group(tmp_path, "", memory_dot_max="400", memory_dot_current="900", memory_dot_stat="x 1")
    assert free_bytes(CPU, tmp_path) == 0


def test_limits_of_the_first_version(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("7:cpu,cpuacct:/x\n4:memory:/job/1\n")
    files = {
        "memory_dot_limit_in_bytes": "7000",
        "memory_dot_usage_in_bytes": "2000",
        "memory_dot_stat": "total_inactive_file 500\n",
    }
    group(tmp_path, "memory/job/1", **files)
    assert free_bytes(CPU, tmp_path) == 5500
    (tmp_path / "proc/self/cgroup").unlink()
    assert free_bytes(CPU, tmp_path) is None


def test_the_process_s_own_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name:\tx\nVmPeak:\t 9 kB\nVmSize:\t   7 kB\n")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (9 * 1024, resource.RLIM_INFINITY))
    assert free_bytes(CPU, tmp_path) == 2 * 1024
    monkeypatch.setattr(resource, "getrlimit", lambda which: (5 * 1024, 5 * 1024))
    assert free_bytes(CPU, tmp_path) == 0
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert free_bytes(CPU, tmp_path) is None


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (MemoryError(), "out of memory: fewer --agents"),
        (RuntimeError("x: can't allocate memory: 5 bytes\nframes"), "memory: 5 bytes): fewer"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), "(CUDA out of memory. Tried)"),
        (RuntimeError("something else"), None),
    ],
)
def test_out_of_memory_is_one_line(
    raised: Exception,
    told: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(arguments: list[str]) -> int:
        raise raised

    monkeypatch.setattr("fastsaddle.sim.commands.train.main", fail)
    if told is None:
        with pytest.raises(RuntimeError, match="something else"):
            main(["train"])
        return
    assert main(["train"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("fastsaddle: error: ") and error.count("\n") == 1 and told in error
