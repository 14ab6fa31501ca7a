"""Wheels and checkouts, with and without the link, work beside the PyPI package `kernels`."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
# those that have C++
OPS = [
    name
    for path in sorted(ROOT.glob("kernels/*/__init__.py"))
    if (path.parent / "native_cpu.cpp").exists()
    for name in re.findall(r'= Op\(\n    name="(\w+)"', path.read_text())
]
RUN_OPS = """
import torch, fastsaddle
from fastsaddle.kernels.op import ops
for name, op in ops().items():
    for arguments in op.examples(3, 256, torch.Generator()).values():
        op(**arguments)
    if "native" in op.backends:
        print(name, op.choice("cpu"), op.unavailable("cpu").get("native"))
"""


# whatever else is installed here
NOTHING_INSTALLED = "import importlib.metadata as m; m.distributions = lambda **_: iter(())\n"


def python(code: str, *path: Path, cwd: Path, **environment: str) -> str:
    """What a fresh interpreter prints; `path` comes before anything that is installed."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), **environment}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_checkout(tree: Path) -> Path:
    tree.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, tree)
    built = shutil.ignore_patterns("__pycache__", "_native.so", "_native_build.txt")
    for folder in ("fastsaddle", "kernels"):
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=built)
    return tree


def build(kind: str, tree: Path, *path: Path, **environment: str) -> Path:
    """Builds as pip does without isolation, and with the current folder on the path as setup.py."""
    code = f"from setuptools.build_meta import build_{kind}; build_{kind}('dist')"
    python(code, *path, cwd=tree, **environment)
    (archive,) = tree.glob("dist/*")
    return archive


def unpack(wheel: Path, folder: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        return sorted(archive.namelist())


@pytest.fixture(scope="module")
def pypi_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for the PyPI package: it too hooks into every egg_info command by its own name."""
    site = tmp_path_factory.mktemp("site")
    info = site / "kernels-9.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 9.0\n")
    (info / "entry_points.txt").write_text("[egg_info.writers]\nhook = kernels.locking:write\n")
    (site / "kernels").mkdir()
    (site / "kernels" / "__init__.py").write_text("FROM_PYPI = True\n")
    (site / "kernels" / "locking.py").write_text("def write(*args):\n    print('hooked')\n")
    return site


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, pypi_kernels: Path) -> Path:
    tree = copy_checkout(tmp_path_factory.mktemp("wheel") / "tree")
    return build("wheel", tree, pypi_kernels)


def test_wheel_ships_the_kernels_and_the_library(wheel: Path, tmp_path: Path) -> None:
    names = unpack(wheel, tmp_path)
    _, version, *_ = wheel.name.split("-")
    folders = {"fastsaddle", f"fastsaddle-{version}.dist-info"}
    assert {name.split("/")[0] for name in names} == folders
    sources = [
        path for kind in ("py", "cpp", "h", "json") for path in ROOT.glob(f"kernels/**/*.{kind}")
    ]
    assert OPS and sources
    for source in sources:
        assert f"fastsaddle/{source.relative_to(ROOT)}" in names
    assert "fastsaddle/py.typed" in names and "fastsaddle/_native_build.txt" in names
    assert not [name for name in names if "__pycache__" in name]
    compiler = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")[0]
    report = (tmp_path / "fastsaddle/_native_build.txt").read_text()
    assert ("fastsaddle/_native.so" in names) == (shutil.which(compiler) is not None), report
    assert wheel.stem.endswith("-py3-none-any") == ("fastsaddle/_native.so" not in names)


@pytest.mark.parametrize("fastsaddle_first", [True, False])
def test_installed_beside_pypi_kernels(
    wheel: Path, pypi_kernels: Path, tmp_path: Path, fastsaddle_first: bool
) -> None:
    unpack(wheel, tmp_path)
    path = (tmp_path, pypi_kernels) if fastsaddle_first else (pypi_kernels, tmp_path)
    code = f"{RUN_OPS}\nimport kernels; assert kernels.FROM_PYPI; print(fastsaddle.__file__)"
    lines = python(code, *path, cwd=tmp_path.parent).splitlines()
    assert lines[-1] == str(tmp_path / "fastsaddle" / "__init__.py")
    assert [line.split()[0] for line in lines[:-1]] == OPS
    if (tmp_path / "fastsaddle" / "_native.so").exists():
        assert {line.split()[1] for line in lines[:-1]} == {"native"}


@pytest.fixture
def hasty(tmp_path: Path) -> dict[str, str]:
    """A compiler that reads all sources and writes nothing, for wheels whose list of files alone is looked at."""
    compiler = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
    script = tmp_path / "hasty"
    script.write_text(
        f'#!/bin/sh\n{compiler} -fsyntax-only "$@" || exit\n'
        'for word; do [ "$last" != -o ] || echo empty >"$word"; last=$word; done\n'
    )
    script.chmod(0o755)
    return {"CXX": str(script)}


def keep_link(link: Path) -> None:
    pass


def link_as_text(link: Path) -> None:
    """What Python's zipfile and some clones make of it."""
    link.unlink()
    link.write_text("../kernels")


def link_as_empty_folder(link: Path) -> None:
    """What archives made by shutil make of it."""
    link.unlink()
    link.mkdir()


@pytest.mark.parametrize("change", [keep_link, link_as_text, link_as_empty_folder])
def test_checkout_beside_pypi_kernels(
    pypi_kernels: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    tree = copy_checkout(tmp_path / "tree")
    change(tree / "fastsaddle" / "kernels")
    code = f"import kernels; assert kernels.FROM_PYPI\n{RUN_OPS}\nprint(fastsaddle.__file__)"
    code = NOTHING_INSTALLED + code
    lines = python(code, pypi_kernels, cwd=tree).splitlines()
    assert lines[-1] == str(tree / "fastsaddle" / "__init__.py")
    assert [line.split()[0] for line in lines[:-1]] == OPS
    assert all("setup.py build_ext --inplace" in line for line in lines[:-1])


def test_a_checkout_runs_the_kernels_of_the_installed_package(wheel: Path, tmp_path: Path) -> None:
    """After `pip install .` Python started in the checkout imports the checkout, which has no library of its own."""
    tree, site = copy_checkout(tmp_path / "tree"), tmp_path / "site"
    unpack(wheel, site)
    lines = python(f"{RUN_OPS}\nprint(fastsaddle.__file__)", site, cwd=tree).splitlines()
    assert lines[-1] == str(tree / "fastsaddle" / "__init__.py")
    assert all(line.split()[1:] == ["native", "None"] for line in lines[:-1])


def test_a_checkout_without_a_library_says_so_once(wheel: Path, tmp_path: Path) -> None:
    tree, site = copy_checkout(tmp_path / "tree"), tmp_path / "site"
    unpack(wheel, site)
    said = "import sys, warnings; warnings.showwarning = lambda m, *_: print('SAID', m)\n"
    found = python(NOTHING_INSTALLED + said + RUN_OPS, site, cwd=tree)
    (line,) = (line for line in found.splitlines() if line.startswith("SAID"))
    assert "no compiled kernels" in line and f"build_ext --inplace in {tree}" in line
    # an installed one of other sources is not used
    source = next(tree.glob("kernels/**/*.cpp"))
    source.write_text(source.read_text() + "// changed\n")
    found = python(said + RUN_OPS, site, cwd=tree)
    (line,) = (line for line in found.splitlines() if line.startswith("SAID"))
    assert "compiled from other sources" in line


def test_without_a_compiler_the_reference_runs_and_the_reason_is_told(tmp_path: Path) -> None:
    tree = copy_checkout(tmp_path / "tree")
    wheel = build("wheel", tree, CC="false", CXX="false")
    assert wheel.stem.endswith("-py3-none-any")
    unpack(wheel, tmp_path / "site")
    for line in python(RUN_OPS, tmp_path / "site", cwd=tmp_path).splitlines():
        _, backend, reason = line.split(maxsplit=2)
        assert backend == "reference"
        assert "not built" in reason and "exit status 1" in reason


def test_a_failed_build_leaves_no_old_library_behind(tmp_path: Path) -> None:
    tree = copy_checkout(tmp_path / "tree")
    (tree / "fastsaddle" / "_native.so").write_text("compiled from older sources")
    arguments = "sys.argv[1:] = ['-q', 'build_ext', '--inplace']"
    python(f"import runpy, sys; {arguments}; runpy.run_path('setup.py')", cwd=tree, CXX="false")
    assert not (tree / "fastsaddle" / "_native.so").exists()
    assert "exit status 1" in (tree / "fastsaddle" / "_native_build.txt").read_text()


@pytest.mark.parametrize("change", [link_as_text, link_as_empty_folder])
def test_builds_the_same_wheel_where_the_link_is_lost(
    wheel: Path, tmp_path: Path, hasty: dict[str, str], change: Callable[[Path], None]
) -> None:
    tree = copy_checkout(tmp_path / "tree")
    change(tree / "fastsaddle" / "kernels")
    assert unpack(build("wheel", tree, **hasty), tmp_path / "site") == unpack(
        wheel, tmp_path / "expected"
    )


def test_builds_the_same_wheel_from_a_source_archive(
    wheel: Path, tmp_path: Path, hasty: dict[str, str]
) -> None:
    archive = build("sdist", copy_checkout(tmp_path / "tree"))
    shutil.unpack_archive(archive, tmp_path / "sdist", filter="data")
    (tree,) = (tmp_path / "sdist").iterdir()
    assert unpack(build("wheel", tree, **hasty), tmp_path / "site") == unpack(
        wheel, tmp_path / "expected"
    )
