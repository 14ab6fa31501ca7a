"""Compiles the Triton convolutions for one target, without its GPU: `python aot_convolutions.py TARGET REPORT [full]`.

As aot_compile.py does for ops; the report is read by tests/kernels/test_aot_convolutions.py.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import triton
from aot_compile import is_chosen
from triton.runtime.jit import JITFunction

from benchmarks.modeling import listings
from benchmarks.modeling.ahead_of_time import compile_for, compiled, missing
from fastsaddle.kernels.stacked_convolution import images_triton as _convolution_triton
from fastsaddle.kernels.stacked_convolution import weight_triton as _convolution_weight_triton
from fastsaddle.kernels.stacked_convolution.layers import Geometry, output_shape

AGENTS, BATCH = 16, 32
# channels, height and width, outputs, kernel, stride, padding
LAYERS = {
    "lenet5 first": (1, 28, 6, 5, 1, 2),
    "lenet5 second": (6, 14, 16, 5, 1, 0),
    "resnet20 stem": (3, 32, 16, 3, 1, 1),
    "resnet20 16": (16, 32, 16, 3, 1, 1),
    "resnet20 16-32": (16, 32, 32, 3, 2, 1),
    "resnet20 shortcut": (16, 32, 32, 1, 2, 0),
    "resnet20 32": (32, 16, 32, 3, 1, 1),
    "resnet20 32-64": (32, 16, 64, 3, 2, 1),
    "resnet20 64": (64, 8, 64, 3, 1, 1),
}
PRECISIONS = {
    "ieee": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bfloat16": (torch.bfloat16, False),
}
# the other layers differ in numbers only
ALL_PRECISIONS = ("lenet5 second", "resnet20 16", "resnet20 32-64", "resnet20 64")
PTX_MATRIX = re.compile(r"(?:mma|wgmma|tcgen05\.mma)[\w.:]*")
AMD_MATRIX = re.compile(r"v_mfma_\w+")


def widths(kernel: JITFunction, listing: str) -> dict[str, dict[int, int]]:
    """What is loaded, by the name it gets, and "stored" -> bits of an instruction -> how many of these there are."""
    source = Path(kernel.fn.__code__.co_filename).read_text().splitlines()
    found: dict[str, Counter[int]] = {}
    # copies to shared memory tell their size in bytes behind their addresses
    for size, name in (("4", "b32"), ("8", "b64"), ("10", "v4.b32")):
        copies = rf"cp\.async\.\w+\.shared\.global(?= .* 0x{size},)"
        listing = re.sub(copies, f"ld.global.{name}", listing)
    for name, at in listings.instructions(listing):
        bits = listings.memory_bits(name)
        if bits is not None:
            number = int(at.split(":")[0])
            # a call's own line, or the one after it: Triton 3.6 and 3.7 name that of its first argument
            line = next((n for n in (number, number - 1) if "tl.load(" in source[n - 1]), number)
            what, loads, _ = source[line - 1].strip().partition(" = tl.load(")
            what = what if loads else "stored"
            found.setdefault(what, Counter())[bits] += 1
    return {what: dict(count) for what, count in found.items()}


def lanes_apart(ttgir: str) -> list[int]:
    """How many numbers side by side a thread takes in each load of patches: 1 where neighbors go to neighbors."""
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", ttgir, re.MULTILINE))
    loads = (
        r"%patch\w* = (?:tt\.load|ttg\.async_copy_global_to_local|amdg\.buffer_load)\b.*?, (#\w+)>"
    )
    found = []
    for name in re.findall(loads, ttgir):
        per_thread = re.search(
            r"sizePerThread = \[(\d+), (\d+)\].* order = \[1, 0\]", layouts[name]
        )
        found.append(int(per_thread[2]) if per_thread else 0)
    return found


class Recorder:
    """Compiles instead of launching, and reports on every binary."""

    def __init__(self) -> None:
        self.origin: dict[str, Any] = {}
        self.binaries: dict[int, Any] = {}
        self.reports: list[dict[str, Any]] = []

    def __call__(self, kernel: JITFunction, *args: Any, grid: Any, **kwargs: Any) -> None:
        report = {"kernel": kernel.__name__, **self.origin, "programs": grid[0]}
        binary, log = compiled(kernel, *args, grid=grid, **kwargs)
        if id(binary) in self.binaries:
            return
        self.binaries[id(binary)] = binary
        listing = binary.asm.get("ptx") or binary.asm["amdgcn"]
        names = [name for name, _ in listings.instructions(listing)]
        matrix = Counter(n for n in names if PTX_MATRIX.match(n) or AMD_MATRIX.match(n))
        self.reports.append(
            {
                **report,
                "triton": triton.__version__,
                "tile": [kwargs.get(n) for n in ("ROWS", "POSITIONS", "TERMS")],
                "threads": binary.metadata.num_warps * binary.metadata.target.warp_size,
                "shared": binary.metadata.shared,
                "matrix": dict(matrix),
                "widths": widths(kernel, listing),
                "lanes_apart": lanes_apart(binary.asm["ttgir"]),
                "reduced_precision": listings.reduced_precision(listing),
                **listings.resources(listing, log),
            }
        )


def compile_layer(layer: str, precision: str, recorder: Recorder) -> None:
    channels, size, rows, kernel, stride, padding = LAYERS[layer]
    dtype, tf32 = PRECISIONS[precision]
    geometry = Geometry(*((n, n) for n in (stride, padding, 1)))

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(AGENTS, *shape, dtype=dtype, device="meta")

    x, weight = empty(BATCH, channels, size, size), empty(rows, channels, kernel, kernel)
    out = torch.empty(output_shape(x.shape, weight.shape, geometry), dtype=dtype, device="meta")
    recorder.origin = {"layer": layer, "precision": precision, "of": "output"}
    _convolution_triton.convolve(x, weight, empty(rows), out, geometry, False, tf32)
    recorder.origin["of"] = "input"
    _convolution_triton.convolve(out, weight, None, x, geometry, True, tf32)
    recorder.origin["of"] = "weight"
    _convolution_weight_triton.sum_products(out, x, weight, geometry, tf32)


def main(target: str, report: str, full: str = "") -> None:
    if reason := missing(target):
        Path(report).write_text(json.dumps({"missing": reason}))
        return
    recorder = Recorder()
    compile_for(target, recorder)
    for number, precision in enumerate(PRECISIONS):
        for place, layer in enumerate(LAYERS if precision == "ieee" else ALL_PRECISIONS):
            if is_chosen(target, bool(full), place, number):
                compile_layer(layer, precision, recorder)
    Path(report).write_text(json.dumps({"reports": recorder.reports}))


if __name__ == "__main__":
    main(*sys.argv[1:])
