"""Whoever computes an op takes the arguments of its list, in the list's order: reference, Triton launcher, C function.

ctypes passes what the list says, and knows nothing of the other side: a parameter that is missing or in another place
there would be memory that somebody else's pointer leads to.
"""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from fastsaddle.kernels import generated
from fastsaddle.kernels.op import Op, ops

KERNELS = Path(__file__).parents[2] / "kernels"
EVERY = pytest.mark.parametrize("op", ops().values(), ids=lambda op: op.name)
# names that the sources give to types
ALIASES = {"i64": "std::int64_t", "Byte": "std::uint8_t", "Bucket": "std::int32_t"}


def folder(op: Op) -> Path:
    return KERNELS / op.folder.rpartition(".")[2]


def expected(op: Op) -> list[str]:
    return [a.name for a in op.arguments] + (["out"] if op.makes is not None else [])


@EVERY
def test_the_reference_takes_the_arguments_in_order(op: Op) -> None:
    assert list(inspect.signature(op.reference).parameters) == expected(op)


@EVERY
def test_the_triton_launcher_takes_the_arguments_in_order(op: Op) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if not (folder(op) / "triton_gpu.py").exists():
        assert "triton" in op.unavailable("cuda")
        return
    launch = op.implementation("triton")
    assert list(inspect.signature(launch).parameters) == expected(op)


def parameters_of(source: str, function: str) -> list[tuple[str, str]]:
    """(type, name) of each parameter of an exported C function."""
    found = re.search(rf"FS_EXPORT [\w:]+ {function}\(([^)]*)\)", source)
    assert found, function
    result = []
    for parameter in found[1].split(","):
        told, name = re.fullmatch(r"\s*(.*?)(\w+)\s*", parameter, re.DOTALL).groups()
        words = re.sub(r"\b(?:fs::)?(i64|Byte|Bucket)\b", lambda m: ALIASES[m[1]], told)
        result.append((" ".join(words.split()), name))
    return result


@EVERY
def test_the_c_function_takes_what_the_list_passes(op: Op) -> None:
    path = folder(op) / "native_cpu.cpp"
    if not path.exists():
        assert "native" in op.unavailable("cpu")
        return
    passed = [(p.type, p.name) for p in generated.parameters(op.arguments)]
    assert parameters_of(path.read_text(), f"fs_{op.name}") == passed


def test_a_parameter_in_another_place_is_noticed() -> None:
    source = (KERNELS / "sam_perturb" / "native_cpu.cpp").read_text()
    passed = [(p.type, p.name) for p in generated.parameters(ops()["sam_perturb"].arguments)]
    for right, wrong in (("const float* g,", "float* g,"), ("fs::i64 adaptive", "fs::i64 other")):
        assert right in source
        assert parameters_of(source.replace(right, wrong), "fs_sam_perturb") != passed
