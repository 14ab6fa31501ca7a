"""Reads facts out of what Triton's compiler leaves: row accesses in its IR, and instructions in PTX and amdgcn.

Both listings name the source position of each instruction, so an access is followed from `tl.load` to the machine.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

PTX_MEMORY = re.compile(r"(?:ld|st)\.global(?:\.[a-zA-Z][\w:]*)*?(?:\.v(\d))?\.[bfsu](\d+)$")
AMD_MEMORY = re.compile(r"(?:global|buffer|flat)_(?:load|store)_([a-z]+)(?:x(\d))?$")
AMD_BITS = {"dword": 32, "short": 16, "ushort": 16, "byte": 8, "ubyte": 8}

# in PTX a product and a sum without a rounding may be fused by ptxas
PTX_FUSED = re.compile(r"(?:fma\.|mad\.\w*\.?f|(?:add|sub|mul)\.(?:ftz\.)?f(?:32|64))")
PTX_INEXACT = re.compile(r"(?:div|sqrt|rcp)\.(?:full|approx)|.*\.ftz\b")
AMD_FUSED = re.compile(r"v_(?:pk_)?(?:fma|fmac|fmamk|fmaak|mad|mac)_(?:legacy_)?f(?:32|64)")
# correctly rounded division and square root are built of fused multiply-adds
AMD_EXPANDED = re.compile(r"v_(?:div_fixup_f32|div_fixup_f64|rsq_f64|sqrt_f32)")
AMD_INEXACT = re.compile(
    r"\bf(?:add|sub|mul|div) (?:\w+ )*(?:fast|arcp|afn|reassoc|contract) .*"
    r"|.*!fpmath.*|call .*@llvm\.amdgcn\.(?:sqrt|rcp|rsq|fdiv)\..*"
)
AMD_FLUSHING = re.compile(r"\.amdhsa_float_denorm_mode_(?:32|16_64) [0-2]")
REDUCED_PRECISION = re.compile(r".*(?:[.:]tf32|_xf32)")


@dataclass
class Access:
    """A `tl.load` or `tl.store` of rows in the source.

    Attributes:
        elements: numbers that one program moves with it, each time it passes.
        loops: how often it stands in a loop or a branch, as a function may be called twice.
        stores: whether it is a store.
        bits: of a number: 32, or 16 in state kept as bfloat16.
        widths: bits of an instruction that it became -> how many of them the listing holds.
    """

    elements: int
    loops: int
    stores: bool
    bits: int
    widths: Counter[int]


def instructions(listing: str) -> Iterator[tuple[str, str]]:
    """Every instruction of PTX or amdgcn as (name, "line:column" of its source)."""
    place, inline = "", False
    for line in listing.splitlines():
        if "inline asm" in line:
            # LLVM counts the lines of inline assembly on from its source line
            inline = "begin" in line
        elif position := re.match(r"\s*\.loc\s+\d+ (\d+) (\d+)", line):
            place = place if inline else f"{position[1]}:{position[2]}"
        elif instruction := re.match(r"\s*(?:@!?%p\d+\s+)?([a-z][\w.:]*)(?:\s|;|$)", line):
            yield instruction[1], place


def memory_bits(name: str) -> int | None:
    """How many bits a thread moves with a load from or a store to global memory; None for other instructions."""
    if ptx := PTX_MEMORY.match(name):
        return int(ptx[1] or 1) * int(ptx[2])
    if amd := AMD_MEMORY.match(name):
        return AMD_BITS[amd[1]] * int(amd[2] or 1)
    return None


def row_accesses(ttir: str, listing: str, columns: int) -> dict[str, Access]:
    """Accesses to blocks of `columns` numbers, of the highest rank in the kernel, by "line:column" of their source."""
    names = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", ttir, re.MULTILINE))

    def place(name: str) -> str:
        if position := re.match(r'".*":(\d+):(\d+)', names[name]):
            return f"{position[1]}:{position[2]}"
        inner = re.search(r"#loc\d*", names[name])
        return place(inner[0]) if inner else ""

    blocks = []
    for line in ttir.splitlines():
        access = re.match(r"( +)(?:%\S+ = )?tt\.(load|store) .*loc\((#loc\d*)\)$", line)
        block = re.search(r"tensor<((?:\d+x)+)!tt\.ptr<(f32|i16)>", line)
        if access and block:
            shape = [int(n) for n in block[1].split("x")[:-1]]
            # statements of the function itself are indented by four
            bits = 32 if block[2] == "f32" else 16
            blocks.append((shape, place(access[3]), len(access[1]) > 4, access[2] == "store", bits))
    rank = max((len(shape) for shape, *_ in blocks), default=0)
    found: dict[str, Access] = {}
    for shape, at, looped, stores, bits in blocks:
        if len(shape) == rank and shape[-1] == columns:
            access = found.setdefault(at, Access(0, 0, stores, bits, Counter()))
            access.elements += prod(shape)
            access.loops += looped
    for name, at in instructions(listing):
        bits = memory_bits(name)
        if bits is not None and at in found:
            found[at].widths[bits] += 1
    return found


def contractions(listing: str) -> list[str]:
    """Instructions that fuse a product with a sum, or leave leave to do so; those inside a division do not count."""
    listed = list(instructions(listing))
    expanded = {place for name, place in listed if AMD_EXPANDED.match(name)}
    return [
        f"{name} at {place}"
        for name, place in listed
        if PTX_FUSED.match(name) or (AMD_FUSED.match(name) and place not in expanded)
    ]


def inexact(listing: str, llir: str) -> list[str]:
    """Divisions and roots that are not correctly rounded, and arithmetic that flushes small numbers to zero."""
    return [
        *(f"{name} at {place}" for name, place in instructions(listing) if PTX_INEXACT.match(name)),
        *AMD_INEXACT.findall(llir),
        *AMD_FLUSHING.findall(listing),
    ]


def reduced_precision(listing: str) -> list[str]:
    """Matrix instructions that round their float32 operands."""
    return [name for name, _ in instructions(listing) if REDUCED_PRECISION.match(name)]


def resources(listing: str, log: str) -> dict[str, int]:
    """Registers of a thread, what of them is spilled (bytes on NVIDIA, registers on AMD), bytes of private memory."""
    if ".amdgcn_target" in listing:
        return {
            "registers": number(r"\.vgpr_count:\s+(\d+)", listing),
            "spills": number(r"\.vgpr_spill_count:\s+(\d+)", listing)
            + number(r"\.sgpr_spill_count:\s+(\d+)", listing),
            "private": number(r"\.private_segment_fixed_size:\s+(\d+)", listing),
        }
    return {
        "registers": number(r"Used (\d+) registers", log),
        "spills": number(r"(\d+) bytes spill stores", log)
        + number(r"(\d+) bytes spill loads", log),
        "private": number(r"(\d+) bytes stack frame", log),
    }


def number(pattern: str, text: str) -> int:
    """The number that `pattern` captures; ValueError where a compiler no longer prints it."""
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"the compiler must print {pattern}, got {text[-400:]!r}")
    return int(found[1])
