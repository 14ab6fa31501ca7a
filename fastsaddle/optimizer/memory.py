"""What memory parameters may lie in: their own, of this process, each element once."""

from collections.abc import Sequence

import torch
from torch.nn import Parameter
from torch.nn.parameter import is_lazy

SHARED = (
    "parameters must not lie in shared memory, got parameter {number} there: a private copy would be trained, "
    "which no other process sees (Hogwild)"
)


def check_memory(parameters: Sequence[Parameter]) -> None:
    """Raise ValueError for parameters without values or strides, or on several devices."""
    for number, p in enumerate(parameters):
        if p.device != parameters[0].device:
            raise ValueError(
                f"parameters must be on one device, got {parameters[0].device} and {p.device}"
            )
        if is_lazy(p):
            raise ValueError(
                f"parameters must have values, got parameter {number} uninitialized: "
                "a lazy module has shapes once it has been called"
            )
        if p.is_meta:
            raise ValueError(
                f"parameters must have values, got parameter {number} on meta: "
                "module.to_empty(device=...) allocates them"
            )
        if not has_memory(p):
            kind = type(p.data).__name__ if p.layout == torch.strided else p.layout
            raise ValueError(f"parameters must be dense, got {kind} for parameter {number}")


def has_memory(p: Parameter) -> bool:
    """Whether it is dense, with an address; sparse tensors and those that stand for others (sharded ones) have none."""
    if p.layout != torch.strided:
        return False
    try:
        return p.data_ptr() != 0 or not p.numel()
    except RuntimeError:
        return False


def is_shared(p: Parameter) -> bool:
    """Whether other processes see what is written there; of a GPU's memory every one says so."""
    return p.is_cpu and p.untyped_storage().is_shared()


def refuse_shared(parameters: Sequence[Parameter]) -> None:
    """Raise ValueError for parameters in shared memory."""
    for number, p in enumerate(parameters):
        if is_shared(p):
            raise ValueError(SHARED.format(number=number))


def refuse_overlaps(parameters: Sequence[Parameter]) -> None:
    """Raise ValueError where an element is in two parameters, or twice in one."""
    pieces = [(number, *runs(p)) for number, p in enumerate(parameters) if p.numel()]
    if not pieces:
        return
    begin = torch.cat([starts for _, starts, _ in pieces])
    counts = torch.tensor([len(starts) for _, starts, _ in pieces], device="cpu")
    lengths, numbers = (
        torch.tensor(values, dtype=torch.int64, device="cpu").repeat_interleave(counts)
        for values in ([length for *_, length in pieces], [number for number, *_ in pieces])
    )
    begin, order = begin.sort()
    overlaps = begin[:-1] + lengths[order][:-1] > begin[1:]
    if overlaps.any():
        place = int(overlaps.nonzero()[0])
        one, other = numbers[order][place : place + 2].tolist()
        if one == other:
            raise ValueError(
                f"parameters must not share memory, but elements of {one} do among themselves: clone it first"
            )
        raise ValueError(
            f"parameters must not share memory, but {one} and {other} do: "
            "pass one parameter object for tied weights"
        )


def runs(p: Parameter) -> tuple[torch.Tensor, int]:
    """Where the adjacent elements of a parameter begin, addresses `[runs]` int64, and the bytes of each such run."""
    length = 1
    outer: list[tuple[int, int]] = []
    for stride, size in sorted(zip(p.stride(), p.shape, strict=True)):
        if stride == length and not outer:
            length *= size
        elif size > 1:
            # an expanded one has all its elements in one place: two of them tell
            outer.append((stride, size if stride else 2))
    starts = torch.full((1,), p.data_ptr(), dtype=torch.int64, device="cpu")
    for stride, size in outer:
        steps = torch.arange(size, device="cpu") * (stride * p.element_size())
        starts = (starts[:, None] + steps).flatten()
    return starts, length * p.element_size()
