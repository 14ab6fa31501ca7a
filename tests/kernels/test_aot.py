"""Every Triton kernel, compiled ahead of time for GPUs that are not here: code quality read from the machine code.

aot_compile.py compiles in a process for each target, apart from this one's environment and from the user's
cache; benchmarks/modeling/listings.py reads the listings. Each variant of an op is compiled for each target and for
each number of agents, and all three at once with --full. Nothing here runs on, or says anything measured about, a GPU.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.modeling.machines import TARGETS, resident_programs
from fastsaddle.kernels.arguments import MOST_COLUMNS

HERE = Path(__file__).parent
# those of stacked convolutions are in tests/kernels/test_aot_convolutions.py
KERNELS = sorted(
    name
    for path in (HERE.parents[1] / "kernels").rglob("*.py")
    if path.parent.name != "stacked_convolution"
    for name in re.findall(
        r"^@triton\.jit(?:\(.*\))?\ndef (\w+_kernel)\(", path.read_text(), re.MULTILINE
    )
)
# they read or write a few numbers for each agent or slice, not rows
FINISHING = (
    "bucket_finish_kernel",
    "distances_finish_kernel",
    "norm_of_squares_kernel",
    "squares_finish_kernel",
)
# they write single numbers wherever these belong, or parts as wide as they are
SCATTERING = ("collect_gradients_kernel", "top_k_rows_kernel", "top_k_tensor_kernel")
# they read single numbers wherever these lie, or parts as wide as they are
GATHERING = ("collect_gradients_kernel", "gather_batch_kernel")
# rows go through the matrix units in tiles, and sums carry a tolerance
DENSE = ("mix_dense_kernel",)
# one program may fill a multiprocessor: it searches a whole tensor
ALONE = ("top_k_tensor_kernel",)
# Bytes of a thread, stored and loaded together, at most: the largest over Triton 3.6 to 3.9, which bring ptxas 12.8
# to 13.4 and each spill elsewhere
FEW_SPILLS = {
    # with 3.6 to 3.8: bfloat16 momentum
    ("gossip_step_slices_kernel", "sm_90"): 16,
    # with 3.6: the same
    ("gossip_step_slices_kernel", "sm_100"): 16,
    # Triton 3.6's keeps a float64 on the stack while it divides
    ("consensus_slices_kernel", "sm_100"): 16,
}
# accesses that find their rows in L2: the other neighbors' slices; the same slice, once more
FROM_L2 = {"mix_update_kernel": 1, "consensus_slices_kernel": 1}
# bits that an instruction moves at the least, by those of a number
LEAST = {32: 128, 16: 64}

Report = dict[str, Any]
Reports = Callable[[str], list[Report]]


@pytest.fixture(scope="module")
def reports(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Reports]:
    yield from compiled_by("aot_compile.py", tmp_path_factory.mktemp("aot"), request.config)


def compiled_by(program: str, folder: Path, config: pytest.Config) -> Iterator[Reports]:
    """target -> what a program beside this file compiled for it; all targets compile side by side."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TRITON_") or name.endswith("_PATH")
    }
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)

    full = ["full"] if config.getoption("--full") else []

    def start(target: str) -> subprocess.Popen[bytes]:
        with open(folder / f"{target}.log", "wb") as log:
            return subprocess.Popen(
                [sys.executable, str(HERE / program), target, str(folder / target), *full],
                env={**environment, "TRITON_CACHE_DIR": str(folder / f"{target}.cache")},
                stdout=log,
                stderr=log,
            )

    compilers = {target: start(target) for target in TARGETS}

    def read(target: str) -> list[Report]:
        status = compilers[target].wait()
        assert status == 0, (folder / f"{target}.log").read_text()[-8000:]
        content = json.loads((folder / target).read_text())
        if "missing" in content:
            pytest.skip(content["missing"])
        return content["reports"]

    yield read
    for compiler in compilers.values():
        compiler.kill()
        compiler.wait()


def label(report: Report) -> str:
    return f"{report['op']} {report['variant']}, {report['agents']} agents x {report['columns']}"


def moved(report: Report, access: Report) -> int:
    """Numbers that a program moves with an access, counted in its instructions."""
    bits = sum(int(width) * count for width, count in access["widths"].items())
    return bits // access["bits"] * report["threads"]


def narrow(report: Report) -> list[str]:
    """Row accesses that are not, or not wholly, instructions of at least 128 bits; of 64 will do for bfloat16."""
    return [
        f"{place}: {access['widths']}"
        for place, access in report["rows"].items()
        if (
            min(map(int, access["widths"]), default=0) < LEAST[access["bits"]]
            or moved(report, access) < access["elements"]
        )
        and not (access["stores"] and report["kernel"] in SCATTERING)
        and not (not access["stores"] and report["kernel"] in GATHERING)
    ]


def resident(report: Report, target: str) -> int:
    """How many programs a multiprocessor holds at once."""
    return resident_programs(target, report["registers"], report["threads"], report["shared"])


def passes(report: Report) -> float:
    """How often a whole buffer is read from memory or written, counted in instructions."""
    rows = report["rows"].values()
    straight = sum(moved(report, a) * a["bits"] / 32 for a in rows if not a["loops"])
    repeated = sum(access["loops"] * access["bits"] / 32 for access in rows)
    from_l2 = FROM_L2.get(report["kernel"], 0)
    if report["kernel"] == "mix_update_kernel":
        # rows of agents elsewhere come from memory
        from_l2 -= report["foreign"]
    if report["kernel"] in ("mix_kernel", "choco_mix_kernel"):
        # public copies of the neighbors here, and the own one once more
        from_l2 = (2 - report["foreign"]) * report["x_hat"]
    if report["kernel"] == "choco_step_pieces_kernel":
        # what the second walk reads again: models and public copies, or all that the local step reads
        from_l2 = report["x_hat"] + (1 if report["mix_first"] else 2 + report["momentum"])
    if report["kernel"] == "gossip_step_slices_kernel":
        # h of a slice, written and read; what quasi-global momentum reads once more
        from_l2 = 2 + report["variant"].startswith("quasi-global") * (1 + report["momentum"])
    if report["kernel"] == "pull_push_kernel":
        # the center, which one agent reads from memory
        from_l2 = 1 - 1 / report["agents"]
    numbers = report["agents"] * report["columns"]
    return straight * report["programs"] / numbers + repeated - from_l2


def owed(report: Report) -> float | None:
    """How many passes the kernel should take; None where that is not told."""
    kernel = report["kernel"]
    if kernel in (*SCATTERING, *GATHERING):
        return None
    if kernel == "publish_kernel":
        models = 1 if report["mix_first"] else 2 + report["momentum"]
        return models + 2 * report["x_hat"]
    if kernel == "mix_kernel":
        return 3 + report["x_hat"] + 2 * report["momentum"]
    if kernel in ("gossip_step_slices_kernel", "choco_step_pieces_kernel"):
        return report["passes"]
    if kernel == "choco_encode_kernel":
        # codes and signs are counted apart
        return report["passes"] - report["sent"]
    if kernel == "bucket_tiles_kernel":
        return 2 if report["op"] == "compress_ef" else 1
    if report["op"] in ("quantize", "compress_ef", "dequantize_add", "sign"):
        # codes and signs are less than a pass together
        return int(report["passes"])
    # a fused step pads its agents to a power of two; one agent alone has no loops; halves split a step's passes
    whole = report["agents"] in (16, 64, 128, 256) and (
        # what weighted_sum launches is compiled for mix_neighbors already
        kernel.startswith(report["op"]) or report["op"] == "mix_neighbors"
    )
    return report["passes"] if whole else None


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel(kernel: str, target: str, reports: Reports) -> None:
    compiled = [r for r in reports(target) if r["kernel"] == kernel and "control" not in r]
    assert compiled, f"no op launches {kernel}"
    uncounted = kernel in (*FINISHING, *SCATTERING, *GATHERING, *DENSE)
    assert uncounted or any(owed(report) is not None for report in compiled)
    for report in compiled:
        assert "error" not in report, (label(report), report["error"])
        spilled = max(report["spills"], report["private"])
        assert spilled <= FEW_SPILLS.get((kernel, target), 0), (label(report), spilled)
        assert resident(report, target) >= (1 if kernel in ALONE else 2), label(report)
        # columns are counted in 32 bits, also those of a last slice that goes beyond the row
        assert report["slice"] <= 2**31 - MOST_COLUMNS, label(report)
        assert not report["reduced_precision"], label(report)
        if kernel in DENSE:
            continue
        assert not report["contractions"], (label(report), report["contractions"])
        assert not report["inexact"], (label(report), report["inexact"])
        if kernel in FINISHING:
            assert not report["rows"], label(report)
            continue
        assert report["rows"] and not narrow(report), (label(report), narrow(report))
        if owed(report) is not None:
            assert passes(report) == owed(report), label(report)


@pytest.mark.parametrize("target", TARGETS)
def test_each_check_catches_a_kernel_that_is_wrong_on_purpose(
    target: str, reports: Reports
) -> None:
    controls = {r["control"]: r for r in reports(target) if "control" in r}
    assert not [r["error"] for r in controls.values() if "error" in r]
    assert controls["contractions"]["contractions"] and not narrow(controls["contractions"])
    assert len(narrow(controls["widths"])) == 4 and not controls["widths"]["contractions"]
    assert controls["spills"]["spills"] > 0
    assert controls["inexact"]["inexact"] and controls["inexact"]["reduced_precision"]
