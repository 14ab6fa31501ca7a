"""What benchmarks share: the yardstick, how a round is timed, and the figures each row carries.

Every figure is a ratio within one run: the copy bandwidth is measured beside each case, interleaved with it, on
buffers of the same size. GPU work is synchronized inside the timed round.
"""

import gc
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch

from benchmarks.progress import Progress
from fastsaddle.kernels._shared.shapes.devices import device_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# seconds from which on three rounds tell enough: such work is beside what takes a tenth of it or less
SLOW, FEW_ROUNDS = 0.1, 3
# beside each of few rounds, whose median a preempted one does not move
COPIES = 9


def kind(config: pytest.Config) -> str:
    """cpu or cuda: what the option `--device` names, without a number."""
    return torch.device(str(config.getoption("--device"))).type


def scale(config: pytest.Config) -> str:
    """Which sizes are wanted: cpu, cuda, or tiny."""
    return "tiny" if config.getoption("--tiny") else kind(config)


def has_all_rows(config: pytest.Config) -> bool:
    """Whether rows are wanted that nobody waits for on a CPU; on a GPU each part has its own limit."""
    return bool(config.getoption("--all-rows")) or scale(config) != "cpu"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default=DEVICE, help="cpu or cuda; default: cuda where there is one"
    )
    parser.addoption("--threads", type=int, help="CPU threads; default: torch's own choice")
    parser.addoption(
        "--tiny",
        action="store_true",
        help="smallest sizes: checks that everything runs, measures nothing",
    )
    parser.addoption(
        "--all-rows",
        action="store_true",
        help="on a CPU, also ResNet-20 by engines that are not chosen, 256 agents with every op, and "
        "references of 16 x 1,000,000",
    )


def pytest_configure(config: pytest.Config) -> None:
    # with -v pytest names each case itself
    if config.option.verbose <= 0:
        config.pluginmanager.register(Progress(config), "progress")
    # a run out of time is ended by SIGTERM: as for Ctrl-C, what was measured is written
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["device"] = "cpu"
    if kind(config) == "cuda":
        properties = torch.cuda.get_device_properties(config.getoption("--device"))
        machine_info.update(
            device=properties.name,
            memory_bytes=properties.total_memory,
            multiprocessors=properties.multi_processor_count,
            cuda=torch.version.cuda,
            hip=torch.version.hip,
            kind=device_of(torch.device(config.getoption("--device"))).kind,
        )
    try:
        import triton

        machine_info["triton"] = triton.__version__
    except ImportError:
        machine_info["triton"] = None


@pytest.fixture(scope="session", autouse=True)
def threads(request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("--threads")
    if count is not None:
        torch.set_num_threads(count)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def gpu_or_tiny(request: pytest.FixtureRequest) -> bool:
    """For what is measured on a GPU alone: whether the sizes are to be tiny. Skips on a CPU unless they are."""
    is_tiny = bool(request.config.getoption("--tiny"))
    if kind(request.config) == "cpu" and not is_tiny:
        pytest.skip("measured on a GPU; --tiny tries it on a CPU")
    return is_tiny


@pytest.fixture(autouse=True)
def given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give the memory of each case back, so that the next can have it in one piece."""
    yield
    if kind(request.config) == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def needs(size: float, device: str) -> None:
    """Skip a case where the GPU has fewer than `size` bytes free."""
    if torch.device(device).type == "cuda" and torch.cuda.mem_get_info(device)[0] < size:
        pytest.skip(f"needs {size / 1e9:.0f} GB of free GPU memory")


def synchronized(work: Callable[[], Any], device: str, repeats: int = 1) -> Callable[[], None]:
    """`work` done `repeats` times; on a GPU the round ends when the device has finished."""

    def round_() -> None:
        for _ in range(repeats):
            work()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    return round_


def seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


class Measure:
    """Times one case with pytest-benchmark, a copy of the same size beside it, and fills `extra_info`."""

    def __init__(self, benchmark: Any, device: str, rounds: tuple[int, int]) -> None:
        self.benchmark, self.device, self.rounds = benchmark, device, rounds

    def __call__(
        self,
        work: Callable[[], Any],
        *,
        moved: float,
        implementation: str,
        agents: int,
        dim: int,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Time `work`, which must move `moved` bytes, against `copy_` of `[agents, dim]` float32."""
        source = torch.randn(agents, dim, device=self.device)
        target = torch.empty_like(source)
        once = synchronized(work, self.device)
        once()
        # a round lasts 10 ms or more on a GPU, so that waiting for its end does not count
        is_gpu = torch.device(self.device).type == "cuda"
        least = seconds(once)
        is_slow = least > SLOW
        if not is_slow:
            least = min(least, *(seconds(once) for _ in range(2)))
        repeats = max(1, int(0.01 / max(1e-6, least))) if is_gpu else 1
        round_ = synchronized(work, self.device, repeats)
        copy = synchronized(lambda: target.copy_(source), self.device, repeats)
        copies: list[float] = []

        def interleaved() -> tuple[tuple[Any, ...], dict[str, Any]]:
            number = COPIES if is_slow else 1
            copies.append(statistics.median(seconds(copy) for _ in range(number)))
            return (), {}

        least_rounds, most_rounds = self.rounds
        wanted = int((0.3 if is_gpu else 0.6) / max(1e-4, repeats * least))
        rounds = max(least_rounds, min(most_rounds, wanted))
        if is_slow:
            rounds = min(rounds, FEW_ROUNDS)
        for _ in range(3):
            copy()
            if not is_slow:
                round_()
        self.benchmark.pedantic(round_, setup=interleaved, rounds=rounds)
        times = self.benchmark.stats.stats.data
        median = statistics.median(times) / repeats
        bandwidth = 2 * source.numel() * 4 / (statistics.median(copies) / repeats)
        # each round has its own copy beside it: their ratio does not follow the machine's moods
        ratio = statistics.median(c / t for c, t in zip(copies, times, strict=True))
        self.benchmark.extra_info.update(
            bytes=int(moved),
            gb_per_s=float(f"{moved / median / 1e9:.5g}"),
            copy_gb_per_s=float(f"{bandwidth / 1e9:.5g}"),
            percent_of_copy=round(100 * ratio * moved / (2 * source.numel() * 4), 1),
            repeats=repeats,
            implementation=implementation,
            agents=agents,
            dim=dim,
            device=self.device,
            threads=torch.get_num_threads(),
            **(info or {}),
        )


@pytest.fixture
def measure(benchmark: Any, device: str, request: pytest.FixtureRequest) -> Measure:
    rounds = (1, 1) if request.config.getoption("--tiny") else (9, 60)
    return Measure(benchmark, device, rounds)
