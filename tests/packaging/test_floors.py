"""Imports only go down: a file may use the floors below it, and on its own floor only its folder's `base.py`."""

import ast
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# lowest first; a file stands on the floor of its longest name here, "" is fastsaddle/__init__.py with the public names
FLOORS = (
    ("kernels", "_checkout", "_logs", "graphs.drawing", "stacks.padding_rows", "stacks.settings"),
    (
        "optimizer.hyperparameters",
        "optimizer.ranges",
        "ranks.counts",
        "ranks.errors",
        "ranks.header",
        "ranks.pulse",
        "ranks.transport",
    ),
    (
        *("optimizer.commit", "optimizer.eager", "optimizer.flat_layout", "optimizer.memory"),
        *(
            "optimizer.phase",
            "optimizer.rounded_parameters",
            "optimizer.squares",
            "optimizer.state",
        ),
        *("comm.period", "gradients.second_pass", "graphs.draws", "graphs.fault_log"),
        *(
            "graphs.mixing_matrix",
            "graphs.relay_lists",
            "metrics",
            "sharpness.normalization",
            "stacks.mapping",
        ),
    ),
    ("graphs.edge_coloring", "graphs.hops", "graphs.pairs", "graphs.schedule"),
    ("graphs.faults",),
    ("graphs",),
    ("graphs.topology",),
    (
        *("comm.lists", "compressors._wire", "gradients.ascents", "graphs.edge_list"),
        *("graphs.needs", "ranks.faulty_transport", "ranks.fingerprint", "ranks.mail"),
        *("ranks.thread_transport", "ranks.torch_transport"),
    ),
    ("ranks.notes",),
    (
        *("compressors._selection", "optimizer.errors", "optimizer.flat_parameters"),
        *("optimizer.heard", "ranks.placement", "ranks.plan"),
    ),
    ("ranks.peers",),
    ("ranks.halo", "ranks.transposition"),
    ("ranks",),
    ("stacks",),
    ("agents", "compressors", "optimizer.live"),
    ("sharpness.objective",),
    ("sharpness",),
    ("comm.base",),
    ("comm.ranged_round", "comm.stacked", "comm.stacked_average"),
    ("comm.choco", "comm.over_ranks", "comm.push_sum"),
    (
        *("comm.average_over_ranks", "comm.choco_over_ranks", "comm.push_pull"),
        "comm.push_sum_over_ranks",
    ),
    ("comm.average",),
    ("comm",),
    (
        *(
            "optimizer.absent",
            "optimizer.binding",
            "optimizer.collective",
            "optimizer.combination",
            "optimizer.facts",
        ),
        *("optimizer.own_gradient", "optimizer.rows", "optimizer.scaling", "optimizer.undo"),
    ),
    ("optimizer.group_views", "optimizer.saved_state"),
    ("rules.base", "rules.tracking"),
    ("rules",),
    ("gradients.base", "gradients.sam"),
    ("gradients",),
    ("optimizer",),
    ("methods",),
    ("integrations",),
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


def run(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but what stands under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from run(node)


def imported(module: str, source: str) -> Iterator[str]:
    """Full names of the modules that a file with this text imports, wherever in the file it does."""
    package = f"fastsaddle.{module}" if module else "fastsaddle"
    if FILES[module].name != "__init__.py":
        package = package.rpartition(".")[0]
    for node in run(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                name = f"{origin}.{alias.name}"
                yield name if name.removeprefix("fastsaddle.") in FILES else origin


def height(module: str) -> int:
    name = module
    while name and name not in HEIGHT:
        name = name.rpartition(".")[0]
    assert name or not module, f"{module} stands on no floor"
    return HEIGHT[name]


def allowed(module: str, target: str) -> bool:
    """Whether `module` may import `target`, both named as in FILES."""
    if height(module) != height(target):
        # the library lies beside fastsaddle/__init__.py, whose path is all that this file takes
        return height(module) > height(target) or (module, target) == ("kernels.native", "")
    folder, other = module.split(".")[0], target.split(".")[0]
    if folder == "kernels" == other:
        # what all ops share lies beside their folders or in _shared
        is_an_op = FILES[target].parent != FILES["kernels.op"].parent and "_shared" not in target
        return not is_an_op or target.split(".")[:2] == module.split(".")[:2]
    return folder == other and (folder == "sim" or module == folder or target == f"{folder}.base")


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module: str) -> None:
    for name in imported(module, FILES[module].read_text()):
        root, _, target = name.partition(".")
        if root == "fastsaddle":
            assert allowed(module, target), f"{module or 'fastsaddle'} imports {name}"
        elif module.startswith("kernels."):
            assert root in {"torch", "triton", *sys.stdlib_module_names}, f"{module} imports {name}"


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("kernels.agent_norm", "kernels.consensus"),
        ("kernels._shared.buckets.reference", "kernels.quantize.reference"),
        ("kernels.op", "optimizer.flat_layout"),
        ("graphs.topology", "agents"),
        ("optimizer.state", "optimizer.shell"),
        ("optimizer.flat_layout", "optimizer.state"),
        ("optimizer.rows", "rules.base"),
        ("comm.stacked", "comm.choco"),
        ("comm.choco", "rules.momentum"),
        ("gradients.sam", "gradients.cross"),
        ("rules.momentum", "gradients.sam"),
        ("rules.d2", "rules.relay"),
        ("rules.base", "methods.qgm"),
        ("methods.qgm", "methods.saddle"),
        ("optimizer.shell", "sim.engine"),
        ("sharpness.base", "comm.base"),
        ("metrics", ""),
    ],
)
def test_the_rule_forbids(module: str, target: str) -> None:
    assert {module, target} <= {*FILES}
    assert not allowed(module, target)


def test_imports_for_type_checkers_do_not_count() -> None:
    source = """
if TYPE_CHECKING:
    from fastsaddle.methods import qgm
if typing.TYPE_CHECKING:
    import fastsaddle.sim
def later():
    from fastsaddle.comm import base
    from ..graphs import topology
"""
    expected = ["fastsaddle.comm.base", "fastsaddle.graphs.topology"]
    assert [*imported("rules.momentum", source)] == expected
