"""`fs.sim.data`: what `--dataset` and `--partition` name, under one public name each, loaded when it is asked for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastsaddle as fs
from fastsaddle.sim import choices, data, extra

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["datasets", "partitions"])
def test_all_that_options_name_is_there(folder: str) -> None:
    names = [name.replace("-", "_") for name in choices.names(folder)]
    assert list(getattr(data, folder.upper())) == names
    for name in names:
        assert getattr(fs.sim.data, name) is choices.find(name.replace("_", "-"), folder).function
    assert {*names} <= {*data.__all__} <= {*dir(fs.sim.data)}
    assert {*data.__all__} == {*data.PLACES}


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    code = (
        "import sys, fastsaddle as fs\n"
        "there = lambda: [m for m in sys.modules if m.startswith('fastsaddle.sim.data.')]\n"
        "assert not there()\n"
        "fs.sim.data.iid\n"
        "print(sorted(there()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    loaded = ["", "._base", ".iid"]
    assert done.stdout.strip() == str([f"fastsaddle.sim.data.partitions{n}" for n in loaded]), done


def test_a_folder_may_be_text(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((20, 3)), np.arange(20) % 2
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    assert len(fs.sim.data.npz(str(tmp_path)).train_labels) == 16
    with pytest.raises(FileNotFoundError, match="fashion-mnist: "):
        fs.sim.data.fashion_mnist(str(tmp_path))
    with pytest.raises(ValueError, match=r"npz needs data_dir, a \.npz file or the folder"):
        fs.sim.data.npz()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttributeError, match="no attribute 'mnits'"):
        _ = fs.sim.data.mnits
    monkeypatch.setattr(extra, "needs", lambda who: f"{who} needs scikit-learn")
    with pytest.raises(ImportError, match=r"fs\.sim\.data\.digits needs scikit-learn"):
        _ = fs.sim.data.digits
