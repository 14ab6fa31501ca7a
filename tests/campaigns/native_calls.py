"""Random calls of the native library, for a process that a sanitizer watches.

Every argument lies at the very end of an allocation of its own, so that whatever is touched behind it is noticed.
Results are compared with the reference's, but where lists, indices or codes hold what no caller of ours writes: an
error will do there, as long as memory is left alone.
"""

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from fastsaddle.kernels import native
from fastsaddle.kernels.op import Op, ops, use_backend
from tests.kernels.test_ops import is_rows

MOST_AGENTS = 300
# numbers of one buffer: larger ones take the same paths, more slowly
MOST_NUMBERS = 20_000
GARBAGE = 0.2
# arguments whose numbers say where something lies, or are packed codes
PLACES = ("neighbors", "sources", "buckets", "indices", "codes", "signs", "layers")


def main(folder: str, seed: str, count: str) -> None:
    """Make so many calls with the library in `folder`, and print how they ended."""
    native.package_folder = lambda: Path(folder)
    if Path(native.library()._name).parent != Path(folder):
        raise RuntimeError(f"another library is open: {native.library()._name}")
    draw = random.Random(seed)
    able = [op for op in ops().values() if "native" not in op.unavailable("cpu")]
    ended: Counter[str] = Counter()
    while ended.total() < int(count):
        torch.set_num_threads(draw.randint(1, 3))
        op, agents = (
            draw.choice(able),
            draw.choice([draw.randint(1, 9), draw.randint(1, MOST_AGENTS)]),
        )
        columns = 32 * draw.randint(1, max(1, MOST_NUMBERS // agents // 32))
        number = draw.randrange(2**62)
        examples = op.examples(agents, columns, torch.Generator().manual_seed(number))
        for variant, arguments in examples.items():
            what = f"{op.name}, {variant}, {agents} x {columns}, generator {number}"
            # the last thing that is read of a process that a sanitizer ends
            print(what, file=sys.stderr, flush=True)
            ended[one(draw, op, arguments, what)] += 1
    print(json.dumps(ended))


def one(draw: random.Random, op: Op, arguments: dict[str, Any], what: str) -> str:
    """One call, and how it ended; RuntimeError, which says what was called, where the reference has other results."""
    names = [n for n in PLACES if isinstance(arguments.get(n), torch.Tensor)]
    garbage = draw.choice(names) if names and draw.random() < GARBAGE else None
    got = laid_out(arguments, draw)
    if garbage is not None:
        spoil(got[garbage], draw)
    try:
        with use_backend("native"):
            op(*got.values())
    except (ValueError, IndexError) as error:
        if garbage is None:
            raise RuntimeError(f"{what}: {error}") from error
        return "garbage refused"
    if garbage is not None:
        return "garbage taken"
    expected = laid_out(arguments, draw)
    with use_backend("reference"):
        op(*expected.values())
    for name, value in got.items():
        if isinstance(value, torch.Tensor) and not op.agrees(
            name, arguments, value, expected[name]
        ):
            raise RuntimeError(f"{what}: {name} is not the reference's")
    return "equal to the reference"


def laid_out(arguments: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Copies at the ends of allocations of their own, at any address, with gaps between rows or without."""

    def copy(name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        shape, strides = value.shape, value.contiguous().stride()
        if is_rows(name, value):
            strides = (shape[1] + gap, 1)
        before = draw.randint(0, 31)
        last = (
            sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if value.numel() else -1
        )
        buffer = torch.empty(before + last + 1, dtype=value.dtype)
        return buffer.as_strided(shape, strides, before).copy_(value)

    gap = 32 * draw.randint(0, 5)
    return {name: copy(name, value) for name, value in arguments.items()}


def spoil(tensor: torch.Tensor, draw: random.Random) -> None:
    """Put numbers where they do not belong: near the right ones, and far away."""
    flat, limits = tensor.view(-1), torch.iinfo(tensor.dtype)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(max(1, len(flat)))
        near = int(flat[place]) + draw.choice([-1, 1, 2, 32, 1000])
        value = draw.choice([near, limits.min, limits.max, draw.randint(limits.min, limits.max)])
        flat[place] = min(max(value, limits.min), limits.max)


if __name__ == "__main__":
    main(*sys.argv[1:])
