"""Compiles Triton launches of the ops for one target, without its GPU: `python aot_compile.py TARGET REPORT [full]`.

The ops launch as they would on a device: their arguments are meta tensors, so Triton itself derives each kernel's
signature and specialization, and compiles; nothing runs. The report is JSON, read by tests/kernels/test_aot.py.
Without `full` some examples are compiled for each target: tests/kernels/rotation.py.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
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
from tests.kernels.rotation import is_chosen

# as wide as one slice of agent_norm
COLUMNS = 8192
# columns and neighbors of a buffer of 4 GB: AMD's kernels address it with 64 bits instead of 32
LARGE_COLUMNS, LARGE_DEGREE = 2**26, 15


@dataclass(frozen=True)
class Stack:
    """Sizes that an op is compiled for; without a degree, lists are as long as an example's."""

    agents: int
    columns: int = COLUMNS
    degree: int | None = None
    bucket: int = BUCKET


LARGE = Stack(16, LARGE_COLUMNS, LARGE_DEGREE)
# a step takes buckets of twice the size in halves
HALVES = Stack(16, LARGE_COLUMNS, LARGE_DEGREE, 2 * BUCKET)
# One agent; each block shape of a fused step, also with a number that 16 does not divide; stacks beyond it; a line for
# each target. Every line takes all ways that an op has: a fused step in a tile and in slices, a compressed one in
# pieces and in two kernels, a number of agents whose passes can be counted.
STACKS = (
    (Stack(16), Stack(17), Stack(257)),
    (Stack(64), Stack(1), Stack(128)),
    (LARGE, Stack(4), Stack(130)),
    (HALVES, Stack(48), Stack(256)),
)
# elements of a whole tensor that programs share; columns of a row that is a tile
TENSOR, NARROW = 4096, 1024
# without neighbors the number of agents does not matter, but sizes do
SIZES = (Stack(16), Stack(16, bucket=TENSOR), Stack(16, NARROW), LARGE)
# of the kernels that have several shapes: agents that they are compiled for, and ops that launch them under other names
OF_SHAPES = {
    "gossip_step": (65, 256),
    "quantize": (16,),
    "choco_step": (4, 17, 48),
    "mix_dense": (130,),
}
OPS = {"quantize": ("quantize", "compress_ef")}


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


def compile_example(
    recorder: Recorder,
    op: Op,
    variant: str,
    arguments: dict[str, Any],
    stack: Stack,
) -> None:
    """What one call of an op launches."""
    recorder.origin = {
        "op": op.name,
        "variant": variant,
        "agents": stack.agents,
        "columns": stack.columns,
        "bucket": stack.bucket,
        "passes": op.passes(arguments),
        "foreign": foreign_passes(arguments, stack.agents),
        "mix_first": arguments.get("mix_first", False),
        "sent": (arguments.get("bits", 0) + (arguments.get("signs") is not None)) / 32,
        **{name: passes_of(arguments.get(name)) for name in ("momentum", "x_hat")},
    }
    launch = op.implementation("triton")
    sizes = {"degree": stack.degree, "bucket": stack.bucket}
    launch(*on_meta(arguments, stack.columns, **sizes).values())


def compile_ops(recorder: Recorder, target: int, full: bool) -> None:
    """Every op with every example, of all sizes with `full`.

    Else each example of an op is compiled for one target, and each stack too, but sizes of buckets for all targets.
    """
    generator = torch.Generator().manual_seed(0)
    lines = [full or line == target for line in range(len(STACKS))]
    for op in (op for op in ops().values() if not op.is_layer):
        alone = "Tensor buckets" in op.schema and "Tensor neighbors" not in op.schema
        # (stack, whether it is one of this target) by number
        places = (
            [(stack, other == target) for stack in SIZES for other in range(len(TARGETS))]
            if alone
            else [(stack, own) for line, own in zip(STACKS, lines, strict=True) for stack in line]
        )
        for place, (stack, own) in enumerate(places):
            if not own:
                continue
            examples = op.examples(stack.agents, DRAWN, generator)
            for number, (variant, arguments) in enumerate(examples.items()):
                if full or is_chosen(place, len(places), number, len(examples)):
                    compile_example(recorder, op, variant, arguments, stack)


def compile_alternatives(recorder: Recorder, target: int, full: bool) -> None:
    """Block shapes that a table may choose, each for one of its stacks and some examples, or with `full` for all."""
    generator = torch.Generator().manual_seed(0)
    for kernel, names in ALTERNATIVES.items():
        agents = OF_SHAPES[kernel]
        places = len(names) * len(TARGETS)
        for number, name in enumerate(names):
            place = number * len(TARGETS) + target
            chosen = agents if full else [agents[target % len(agents)]]
            for op in (ops()[op_name] for op_name in OPS.get(kernel, (kernel,))):
                for stack in map(Stack, chosen):
                    examples = op.examples(stack.agents, DRAWN, generator)
                    for example, (variant, arguments) in enumerate(examples.items()):
                        if full or is_chosen(place, places, example, len(examples)):
                            with forced(kernel, name):
                                compile_example(recorder, op, variant, arguments, stack)


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
    chosen = list(TARGETS).index(target), bool(full)
    compile_ops(recorder, *chosen)
    compile_alternatives(recorder, *chosen)
    compile_controls(recorder)
    Path(report).write_text(json.dumps({"reports": recorder.reports}))


if __name__ == "__main__":
    main(*sys.argv[1:])
