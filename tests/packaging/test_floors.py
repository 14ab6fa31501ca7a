"""Imports only go down: a file may use the floors below it, and on its own floor only `base.py`."""

import ast
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# lowest first; "" is fastsaddle/__init__.py, which offers the public names
FLOORS = (
    ("kernels", "_checkout"),
    ("flat", "topology", "batch_norm", "hyperparameters", "metrics", "normalization", "period"),
    ("wire", "relay_lists", "gradient_lists"),
    ("selection", "ascent"),
    ("compressors",),
    ("flat_parameters",),
    ("agents",),
    ("objective",),
    ("sharpness",),
    ("comm",),
    ("stacked_optimizer",),
    ("optimizer", "local_optimizers"),
    ("averaging_optimizer", "tracking_optimizer", "perturbation"),
    ("cross_gradients",),
    ("algorithms",),
    ("",),
    ("sim",),
    ("cli",),
    ("__main__",),
)
HEIGHT = {name: height for height, names in enumerate(FLOORS) for name in names}
# path inside the package, dotted -> file
FILES = {
    ".".join(path.relative_to(folder).with_suffix("").parts)
    .removesuffix("__init__")
    .strip("."): path
    for folder, files in ((ROOT / "fastsaddle", "fastsaddle"), (ROOT, "kernels"))
    for path in sorted((ROOT / files).rglob("*.py"))
}


def imported(module: str) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in the file it does."""
    package = f"fastsaddle.{module}"
    if FILES[module].name != "__init__.py":
        package = package.rpartition(".")[0]
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield name if name.removeprefix("fastsaddle.") in FILES else source


def allowed(module: str, target: str) -> bool:
    """Whether `module` may import `target`, both named as in FILES."""
    floor, other = module.split(".")[0], target.split(".")[0]
    if HEIGHT[floor] != HEIGHT[other]:
        # the library lies beside fastsaddle/__init__.py, whose path is all that this file takes
        return HEIGHT[floor] > HEIGHT[other] or (module, target) == ("kernels._native", "")
    if floor == "kernels":
        return target.startswith("kernels._") or target.split(".")[:2] == module.split(".")[:2]
    return floor == other and (floor == "sim" or module == floor or target == f"{floor}.base")


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module: str) -> None:
    for name in imported(module):
        root, _, target = name.partition(".")
        if root == "fastsaddle":
            assert allowed(module, target), f"{module or 'fastsaddle'} imports {name}"
        elif module.startswith("kernels."):
            assert root in {"torch", "triton", *sys.stdlib_module_names}, f"{module} imports {name}"


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("kernels.agent_norm", "kernels.consensus"),
        ("kernels._op", "flat"),
        ("topology", "agents"),
        ("comm.stacked", "algorithms.base"),
        ("algorithms.qgm", "algorithms.saddle"),
        ("algorithms.base", "sim.engine"),
        ("metrics", ""),
    ],
)
def test_the_rule_forbids(module: str, target: str) -> None:
    assert not allowed(module, target)
