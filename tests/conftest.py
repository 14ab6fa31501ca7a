"""What all tests share: fresh seeds that can be repeated, data that may be absent, GPU marks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    data = "folder with fashion-mnist/ and cifar10/; write --data-dir=DIR, with the equals sign"
    parser.addoption("--data-dir", type=Path, help=data)
    parser.addoption("--seed", type=int, help="repeat a failure: the seed that it printed")


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
