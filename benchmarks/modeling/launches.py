"""The launches of an op, compiled: what each takes of a multiprocessor, moves, and makes its warps do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from triton.runtime.jit import JITFunction

from benchmarks.modeling import listings, sass, triton_ir
from benchmarks.modeling.ahead_of_time import DRAWN, compile_for, compiled, on_meta
from benchmarks.modeling.machines import MACHINES, resident_programs
from fastsaddle.kernels._shared.shapes.devices import STAND_IN, Device
from fastsaddle.kernels.op import Op

# numbers of a buffer; neighbors of an agent besides itself
ELEMENTS, DEGREE = 2**26, 2
# ops that take whole tensors: here a row is one
WHOLE_TENSORS = ("sign", "top_k")
# columns are whole buckets
BUCKET = 512


@dataclass
class Buffer:
    """What a launch moves of one buffer in one direction, bytes.

    Attributes:
        size: of the buffer. first: what memory must bring or take. again: what was there before.
        name: of the buffer: two of one name are one buffer that is read and written.
        stays: whether it is scratch that programs write anew with each piece that they take.
        leaves: whether each access asks L2 to give it up first.
    """

    size: float
    first: float = 0
    again: float = 0
    name: int = 0
    stays: bool = False
    leaves: bool = True


@dataclass
class Launch:
    """One launch of a kernel.

    Attributes:
        kernel: its name. target: what it is compiled for.
        programs: of the launch; threads: of a program; registers: of a thread; spilled: bytes of a thread.
        resident: programs of a multiprocessor at once.
        turns: how many pieces each program takes, one after the other.
        warp: what a warp does.
        buffers: what is moved.
    """

    kernel: str
    target: str
    programs: int
    threads: int
    registers: int
    spilled: int
    resident: int
    turns: int
    warp: sass.Warp
    buffers: Sequence[Buffer]

    @property
    def floor(self) -> float:
        """Bytes that must be read from memory or written there."""
        return sum(buffer.first for buffer in self.buffers)


def mixes(op: Op) -> bool:
    """Whether an op reads rows of other agents, so that their number matters."""
    arguments = next(iter(op.examples(2, DRAWN, torch.Generator().manual_seed(0)).values()))
    return bool({"neighbors", "W"} & {*arguments})


def launches(op: Op, variant: str | None, agents: int, target: str) -> list[Launch]:
    """What an op launches on rows that are not here, compiled for a target; `variant` of its examples, or the first.

    Triton compiles for this target in this process from now on.
    """
    found: list[Launch] = []
    columns = ELEMENTS // agents // BUCKET * BUCKET
    bucket = columns if op.name in WHOLE_TENSORS else BUCKET

    def record(kernel: JITFunction, *args: Any, grid: Any, **kwargs: Any) -> None:
        given = {**dict(zip(kernel.arg_names, args, strict=False)), **kwargs}
        binary, log = compiled(kernel, *args, grid=grid, **kwargs)
        contents = {"buckets_ptr": (0, bucket)}
        found.append(launch_of(kernel.__name__, target, binary, log, given, prod(grid), contents))

    compile_for(target, record)
    machine = next(m for m in MACHINES if m.target == target)
    STAND_IN[0] = Device(target, machine.multiprocessors, machine.cached)
    examples = op.examples(agents, DRAWN, torch.Generator().manual_seed(0))
    arguments = examples[variant or next(iter(examples))]
    on_rows = on_meta(arguments, columns, degree=DEGREE, bucket=bucket)
    op.implementation("triton")(*on_rows.values())
    return found


def launch_of(
    kernel: str,
    target: str,
    binary: Any,
    log: str,
    given: Mapping[str, Any],
    programs: int,
    contents: Mapping[str, Sequence[int]],
) -> Launch:
    """A launch: its binary, what the assembler said, its arguments by name, its programs, and numbers in buffers."""
    threads = binary.metadata.num_warps * binary.metadata.target.warp_size
    used = listings.resources(binary.asm["ptx"], log)
    at_once = resident_programs(target, used["registers"], threads, binary.metadata.shared)
    multiprocessors = next(m.multiprocessors for m in MACHINES if m.target == target)
    # of programs that walk over slices no more are launched than are to reside at once
    walks = "tt.get_num_programs" in binary.asm["ttir"]
    if walks:
        at_once = min(at_once, -(-programs // multiprocessors))
    source = triton_ir.read(binary.asm["ttir"], given, programs, contents)
    buffers, first_reads = moved(source, given, programs, walks)
    warp = sass.walk(sass.disassembled(binary.asm["cubin"]), source, threads, first_reads)
    outermost = [loop.trips for loop in source.loops if loop.outer is None]
    return Launch(
        kernel=kernel,
        target=target,
        programs=programs,
        threads=threads,
        registers=used["registers"],
        spilled=used["spills"],
        resident=at_once,
        turns=max(1, outermost[0]) if walks and outermost else 1,
        warp=warp,
        buffers=buffers,
    )


def moved(
    source: triton_ir.Source, given: Mapping[str, Any], programs: int, walks: bool
) -> tuple[list[Buffer], dict[triton_ir.Access, bool]]:
    """What is moved of each buffer, and which accesses are the first to it; several arguments may be one buffer.

    Where programs walk, `[programs, ...]` is scratch of theirs.
    """
    buffers: dict[tuple[int, bool], Buffer] = {}
    first: dict[triton_ir.Access, bool] = {}
    for access in source.accesses:
        tensor = given.get(access.buffer)
        total = access.moved() * programs
        if not isinstance(tensor, torch.Tensor):
            continue
        size = tensor.numel() * tensor.element_size()
        stays = walks and tensor.shape[:1] == (programs,)
        buffer = buffers.setdefault(
            (id(tensor), access.stores), Buffer(size, name=id(tensor), stays=stays)
        )
        buffer.leaves &= access.leaves
        new = min(total, max(0.0, size - buffer.first))
        buffer.first += new
        buffer.again += total - new
        first[access] = new > 0.01 * total
    return list(buffers.values()), first
