"""Compiles Triton launches of the ops for one target, without its GPU: `python aot_compile.py TARGET REPORT [full]`.

The ops launch as they would on a device: their arguments are meta tensors, so Triton itself derives each kernel's
signature and specialization, and compiles; nothing runs. The report is JSON, read by tests/kernels/test_aot.py.
"""

import json
import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

from benchmarks.modeling import listings
from benchmarks.modeling.ahead_of_time import (
    BUCKET,
    DRAWN,
    TARGETS,
    compile_for,
    compiled,
    missing,
    on_meta,
)
from fastsaddle.kernels._shared.bfloat16.reference import passes_of
from fastsaddle.kernels._shared.shapes.alternatives import ALTERNATIVES
from fastsaddle.kernels._shared.shapes.table import forced
from fastsaddle.kernels.op import Op, ops

# one; each block shape of a fused step, also with a number that 16 does not divide; a stack beyond it
AGENTS = (1, 4, 16, 17, 48, 64, 128, 130, 257)
# as wide as one slice of agent_norm
COLUMNS = 8192
# a buffer of 4 GB: AMD's kernels address it with 64 bits instead of 32
LARGE_COLUMNS, LARGE_DEGREE = 2**26, 15
# of the kernels that have several shapes: agents that they are compiled for, and ops that launch them under other names
STACKS = {
    "gossip_step": (65, 256),
    "quantize": (16,),
    "choco_step": (4, 17, 48),
    "mix_dense": (130,),
}
OPS = {"quantize": ("quantize", "compress_ef")}
# elements of a whole tensor that programs share; columns of a row that is a tile
TENSOR, NARROW = 4096, 1024


class Recorder:
    """Compiles instead of launching, and reports on every new binary."""

    def __init__(self) -> None:
        self.binaries: dict[int, Any] = {}
        self.reports: list[dict[str, Any]] = []
        # what the next reports say of their origin, and arguments that replace a launch's own
        self.origin: dict[str, Any] = {}
        self.altered: dict[str, Any] = {}

    def __call__(self, kernel: JITFunction, *args: Any, grid: Any, **kwargs: Any) -> None:
        kwargs = {**kwargs, **self.altered}
        report = {"kernel": kernel.__name__, **self.origin, "programs": prod(grid)}
        try:
            binary, log = compiled(kernel, *args, grid=grid, **kwargs)
        except Exception as error:
            self.reports.append({**report, "error": f"{type(error).__name__}: {error}"})
            return
        if id(binary) not in self.binaries:
            self.binaries[id(binary)] = binary
            columns = kwargs.get("COLUMNS", 0)
            report["slice"] = kwargs.get("SLICE", columns)
            self.reports.append({**report, **facts(binary, columns, log)})


def facts(binary: Any, columns: int, log: str) -> dict[str, Any]:
    """What tests/kernels/test_aot.py asserts about one binary."""
    listing = binary.asm.get("ptx") or binary.asm["amdgcn"]
    accesses = listings.row_accesses(binary.asm["ttir"], listing, columns)
    return {
        "threads": binary.metadata.num_warps * binary.metadata.target.warp_size,
        "shared": binary.metadata.shared,
        "rows": {place: vars(access) for place, access in accesses.items()},
        "contractions": listings.contractions(listing),
        "inexact": listings.inexact(listing, binary.asm["llir"]),
        "reduced_precision": listings.reduced_precision(listing),
        **listings.resources(listing, log),
    }


def foreign_passes(arguments: Mapping[str, Any], agents: int) -> float:
    """How many passes over the agents' rows it takes to read those behind them."""
    tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
    return max((len(t) for t in tensors if t.shape[1:] == (DRAWN,)), default=agents) / agents - 1


@triton.jit
def careless_kernel(x_ptr, COLUMNS: tl.constexpr):
    c = tl.arange(0, COLUMNS)
    place = x_ptr + c[:, None] * COLUMNS + c[None, :]
    x = tl.load(place)
    tl.store(place, tl.dot(x, tl.sqrt(x) / (x + 1.0), input_precision="tf32"))


def is_chosen(target: str, full: bool, *places: int) -> bool:
    """Whether a combination of choices, each told by its place in its list, is compiled for this target.

    All are with `full`; else each combination is for one target of the four, so that every pair of target, variant and
    stack is compiled.
    """
    return full or (list(TARGETS).index(target) + sum(places)) % len(TARGETS) == 0


def compile_example(
    recorder: Recorder,
    op: Op,
    variant: str,
    arguments: dict[str, Any],
    agents: int,
    columns: int,
    degree: int | None,
    bucket: int,
) -> None:
    """What one call of an op launches."""
    recorder.origin = {
        "op": op.name,
        "variant": variant,
        "agents": agents,
        "columns": columns,
        "bucket": bucket,
        "passes": op.passes(arguments),
        "foreign": foreign_passes(arguments, agents),
        "mix_first": arguments.get("mix_first", False),
        "sent": (arguments.get("bits", 0) + (arguments.get("signs") is not None)) / 32,
        **{name: passes_of(arguments.get(name)) for name in ("momentum", "x_hat")},
    }
    launch = op.implementation("triton")
    launch(*on_meta(arguments, columns, degree=degree, bucket=bucket).values())


def compile_ops(recorder: Recorder, target: str, full: bool) -> None:
    """Every op, example and number of agents or size of buckets, and stacks too large for 32-bit addresses."""
    generator = torch.Generator().manual_seed(0)
    large = (16, LARGE_COLUMNS, LARGE_DEGREE, BUCKET)
    # a step takes buckets of twice the size in halves
    halves = (16, LARGE_COLUMNS, LARGE_DEGREE, 2 * BUCKET)
    stacks = [*((n, COLUMNS, None, BUCKET) for n in AGENTS), large, halves]
    # without neighbors the number of agents does not matter, but sizes do
    sizes = [
        *((16, COLUMNS, None, bucket) for bucket in (BUCKET, TENSOR)),
        (16, NARROW, None, BUCKET),
        large,
    ]
    for op in (op for op in ops().values() if not op.is_layer):
        alone = "Tensor buckets" in op.schema and "Tensor neighbors" not in op.schema
        for place, (agents, columns, degree, bucket) in enumerate(sizes if alone else stacks):
            examples = op.examples(agents, DRAWN, generator)
            # with fewer variants than targets, a target would miss stacks
            everything = full or len(examples) < len(TARGETS)
            for number, (variant, arguments) in enumerate(examples.items()):
                if not is_chosen(target, everything, place, number):
                    continue
                compile_example(recorder, op, variant, arguments, agents, columns, degree, bucket)


def compile_alternatives(recorder: Recorder, target: str, full: bool) -> None:
    """Block shapes that a table may choose, each with the stacks that it is for."""
    generator = torch.Generator().manual_seed(0)
    for kernel, names in ALTERNATIVES.items():
        for number, name in enumerate(names):
            for op in (ops()[op_name] for op_name in OPS.get(kernel, (kernel,))):
                for place, agents in enumerate(STACKS[kernel]):
                    examples = op.examples(agents, DRAWN, generator)
                    everything = full or len(examples) < len(TARGETS)
                    for example, (variant, arguments) in enumerate(examples.items()):
                        if is_chosen(target, everything, number, place, example):
                            with forced(kernel, name):
                                compile_example(
                                    recorder, op, variant, arguments, agents, COLUMNS, None, BUCKET
                                )


def compile_controls(recorder: Recorder) -> None:
    """Kernels that are wrong on purpose, one for each check."""
    generator = torch.Generator().manual_seed(0)
    example = {
        name: next(iter(op.examples(16, DRAWN, generator).values()))
        for name, op in ops().items()
        if not op.is_layer
    }
    for control, op, altered, padding in (
        ("contractions", "sam_perturb", {"enable_fp_fusion": True}, 128),
        ("widths", "sam_perturb", {}, 1),
        ("spills", "gossip_step", {"AGENTS": 512, "COLUMNS": 32, "num_warps": 4}, 128),
    ):
        recorder.origin, recorder.altered = {"control": control}, altered
        ops()[op].implementation("triton")(*on_meta(example[op], COLUMNS, padding).values())
    recorder.origin, recorder.altered = {"control": "inexact"}, {}
    careless_kernel[(1,)](torch.empty(64, 64, device="meta"), COLUMNS=64)


def main(target: str, report: str, full: str = "") -> None:
    if reason := missing(target):
        Path(report).write_text(json.dumps({"missing": reason}))
        return
    recorder = Recorder()
    compile_for(target, recorder)
    compile_ops(recorder, target, bool(full))
    compile_alternatives(recorder, target, bool(full))
    compile_controls(recorder)
    Path(report).write_text(json.dumps({"reports": recorder.reports}))


if __name__ == "__main__":
    main(*sys.argv[1:])
