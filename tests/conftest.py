"""What all tests share: two processes, fresh seeds that can be repeated, data that may be absent, GPU marks."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

WORKERS = 2
# who looks for one failure wants one process
SINGLE = ("collectonly", "lf", "stepwise", "trace", "usepdb", "benchmark_only")
# files that take long with few tests begin first, so that no process is left alone with one at the end
LONG = ("test_packaging.py", "test_aot.py", "test_aot_convolutions.py", "test_interpreter.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    data = "folder with fashion-mnist/ and cifar10/; write --data-dir=DIR, with the equals sign"
    parser.addoption("--data-dir", type=Path, help=data)
    parser.addoption(
        "--full",
        action="store_true",
        help="all combinations where else each pair of choices is tested",
    )
    parser.addoption("--seed", type=int, help="repeat a failure: the seed that it printed")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run in two processes, file by file, where pytest-xdist is installed and nothing else was asked for."""
    option = config.option
    if (
        getattr(option, "numprocesses", 0) is not None
        or option.tx
        or option.dist != "no"
        or option.distload
        or option.maxfail == 1
        or option.capture == "no"
        or any(getattr(option, name, False) for name in SINGLE)
        # pytest that a test started
        or {"PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST"} & {*os.environ}
        or not several_files(config)
    ):
        return
    option.numprocesses, option.dist = WORKERS, "loadfile"
    # in the order of `pytest_collection_modifyitems`, not by how many tests a file has
    option.loadscopereorder = False
    # nothing is timed beside another process
    option.benchmark_disable = True


def several_files(config: pytest.Config) -> bool:
    files = {config.invocation_params.dir / name.split("::")[0] for name in config.args}
    return len(files) > 1 or any(file.is_dir() for file in files)


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        # threads of processes side by side would wait for each other
        share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        torch.set_num_threads(max(1, share))
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA or ROCm device")


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of `--data-dir`; a test that asks for it is skipped where none was given."""
    folder: Path | None = request.config.getoption("--data-dir")
    if folder is None:
        pytest.skip("needs --data-dir")
    if not folder.is_dir():
        pytest.fail(f"--data-dir must be a folder, got {folder}")
    return folder.resolve()


@pytest.fixture(scope="session")
def cifar10_dir(data_dir: Path) -> Path:
    """The folder of CIFAR-10's official binary files in `data_dir`; skips without them."""
    for folder in (data_dir / "cifar10", data_dir / "cifar-10-batches-bin", data_dir):
        if (folder / "test_batch.bin").is_file():
            return folder
    pytest.skip("no CIFAR-10 .bin files in --data-dir")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh 32-bit seed for each test, printed with its failure."""
    given: int | None = request.config.getoption("--seed")
    fresh = int(np.random.SeedSequence().generate_state(1)[0]) if given is None else given
    print(f"seed {fresh} (repeat with --seed {fresh})")
    return fresh


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For small tensors, where torch's threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
