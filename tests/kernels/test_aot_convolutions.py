"""The stacked convolutions' kernels, compiled ahead of time for GPUs that are not here, for layers of known networks.

tests/kernels/aot_convolutions.py compiles. Nothing here runs on, or says anything measured about, a GPU.
"""

import re
from collections.abc import Iterator

import pytest

from tests.kernels.test_aot import TARGETS, Report, Reports, compiled_by, resident

# Bytes of a thread, stored and loaded together, at most: the largest over Triton 3.6 to 3.9, whose ptxas (12.8 to 13.4)
# spill in one layer or two while registers are free, each in others
FEW_SPILLS = {
    ("convolution_kernel", "sm_80"): 16,
    ("convolution_kernel", "sm_100"): 20,
    ("weight_gradient_kernel", "sm_90"): 8,
    ("weight_gradient_kernel", "sm_100"): 12,
}
# a matrix instruction of each arithmetic, on NVIDIA's and on AMD's listings
MATRIX = {
    "tf32": r"mma.*tf32|v_mfma_.*_xf32$",
    "bfloat16": r"mma.*(\.bf16|kind::f16)|v_mfma_.*_bf16$",
}
# of full float32 products, which AMD has and NVIDIA has not
FULL = r"v_mfma_f32_\d+x\d+x\d+_f32$"


@pytest.fixture(scope="module")
def reports(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Reports]:
    yield from compiled_by("aot_convolutions.py", tmp_path_factory.mktemp("aot"), request.config)


def label(report: Report) -> str:
    return f"{report['layer']}, {report['of']}, {report['precision']}"


def minor_version(triton: str) -> tuple[int, ...]:
    return tuple(map(int, triton.split(".")[:2]))


def least_bits(report: Report, what: str) -> int:
    """Bits that each instruction of an access must move: a vector, or all that a thread has of a small tile."""
    bits = 16 if report["precision"] == "bfloat16" else 32
    rows, positions, terms = report["tile"]
    tile = {
        "patch": 0,
        "bias": 0,
        "weight": rows * terms,
        "gradient": rows * positions,
        # weights lie with taps fastest: their gradient is stored one by one
        "stored": rows * positions if report["of"] != "weight" else 0,
    }
    # LeNet-5 has 5 x 5 taps of 1 or 6 channels and planes of 10 x 10, the stem 9 taps of 3 channels
    is_even = report["layer"].startswith("resnet20") and "stem" not in report["layer"]
    return max(bits, min(128, bits * tile[what] // report["threads"])) if is_even else bits


@pytest.mark.parametrize("target", TARGETS)
def test_kernels(target: str, reports: Reports, request: pytest.FixtureRequest) -> None:
    compiled = reports(target)
    assert {r["kernel"] for r in compiled} == {
        "convolution_kernel",
        "weight_gradient_kernel",
        "sum_of_parts_kernel",
    }
    least = 27 if request.config.getoption("--full") else 4
    assert len([r for r in compiled if r["precision"] == "ieee"]) >= least
    for report in compiled:
        spilled = max(report["spills"], report["private"])
        assert spilled <= FEW_SPILLS.get((report["kernel"], target), 0), (label(report), spilled)
        assert resident(report, target) >= 2, label(report)
        if report["kernel"] == "sum_of_parts_kernel":
            assert min(map(int, report["widths"]["stored"])) >= 64, report["widths"]
            continue
        for what, widths in report["widths"].items():
            assert min(map(int, widths)) >= least_bits(report, what), (label(report), what, widths)
        # neighbors of a row go to neighboring lanes: scalar loads of patches fill their sectors; Triton 3.6 gives lanes
        # other terms first in two layers of three, as its loads there have no contiguous axis
        apart = {1} if minor_version(report["triton"]) >= (3, 7) else {0, 1}
        assert report["lanes_apart"] and set(report["lanes_apart"]) <= apart, label(report)


@pytest.mark.parametrize("target", TARGETS)
def test_arithmetic(target: str, reports: Reports) -> None:
    for report in reports(target):
        if report["kernel"] == "sum_of_parts_kernel":
            assert not report["matrix"]
        elif report["precision"] == "ieee":
            assert not report["reduced_precision"], label(report)
            assert all(re.match(FULL, name) for name in report["matrix"]), report["matrix"]
        else:
            kinds = {
                kind for kind, p in MATRIX.items() for n in report["matrix"] if re.search(p, n)
            }
            assert kinds == {report["precision"]}, (label(report), report["matrix"])
            # what the check of full float32 looks for is there where it should be
            assert bool(report["reduced_precision"]) == (report["precision"] == "tf32")
