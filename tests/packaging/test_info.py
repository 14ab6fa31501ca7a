"""`fastsaddle info`, the version, and what must not be imported for them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastsaddle
from fastsaddle.cli import main
from fastsaddle.kernels._shared.shapes.table import origins
from fastsaddle.kernels.op import ops
from fastsaddle.sim.commands import info

ROOT = Path(__file__).parents[2]
EXTRAS = (
    *("jinja2", "matplotlib", "rich", "safetensors", "sklearn", "tabulate", "torchvision"),
    *("tyro", "yaml"),
)


def python(code: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_info_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert f"fastsaddle {fastsaddle.__version__}" in said
    assert f"torch {torch.__version__}" in said
    for name, op in ops().items():
        assert any(line.split() == [name, op.choice("cpu")] for line in said.splitlines())
        for backend, reason in op.unavailable("cpu").items():
            assert f"not {backend}" in said and reason in said
    assert "GB/s" in said
    assert all(line in said for line in origins())
    assert "native library" in said


def test_a_kernel_that_nobody_wrote_is_no_broken_install(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert "No module named" not in said and "has no fs_" not in said
    for backend, language in (("native", "C++"), ("triton", "Triton")):
        without = [name for name, op in ops().items() if backend not in op.backends]
        assert without
        assert f"not {backend} for {', '.join(without)}: there is no {language} kernel" in said


def test_bandwidth_is_measured() -> None:
    assert 0.1 < info.copy_bandwidth("cpu", 2**24) < 10_000


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastsaddle {fastsaddle.__version__}\n"


def test_import_is_light() -> None:
    code = f"import fastsaddle, sys; print([m for m in {EXTRAS} if m in sys.modules])"
    assert python(code).stdout.strip() == "[]"


def test_without_the_extras() -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({EXTRAS}))\n"
        "from fastsaddle.cli import main\n"
        "print(main(['info']), main(['train']))"
    )
    done = python(code)
    assert done.stdout.endswith("0 2\n"), done
    assert "scikit-learn, tabulate, tyro, pyyaml: pip install 'fastsaddle[sim]'" in done.stdout
    assert "train needs jinja2" in done.stderr
    assert "pip install 'fastsaddle[sim]'" in done.stderr


def test_wrong_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2 and main(["trian"]) == 2
    said = capsys.readouterr()
    assert said.out.startswith("usage: fastsaddle COMMAND")
    assert "no command 'trian', did you mean train?" in said.err
    with pytest.raises(SystemExit) as stopped:
        main(["info", "--fast"])
    assert stopped.value.code == 2
    assert "--fast" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m fastsaddle train --help-all | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("usage") and done.stderr == ""
