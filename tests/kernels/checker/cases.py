"""What is checked: launches of all ops on their own examples, and of the stacked convolutions."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fastsaddle.kernels.op import Op, ops, use_backend
from fastsaddle.kernels.stacked_convolution import (
    stacked_convolution,
    stacked_convolution_input_gradient,
    stacked_convolution_weight_gradient,
)
from tests.kernels.test_ops import fresh

# agents and columns; of ops that read rows of other agents more agents, too, and each shape of a fused step
SIZES = ((3, 96), (2, 1056))
TOGETHER, FUSED = ((17, 544),), ((65, 32),)
# more slices than programs, so that a program takes a second one
SLICES = ((257, 96),)
# sums of 8192 columns; four tensors or fewer, the largest of which several programs share
LONG, WIDE = ((2, 16_416),), ((2, 12_320),)
# more rows than a program of narrow ones takes
NARROW = ((9, 96),)
# examples that alone launch some kernel
ALWAYS = {"quantize": ("euclidean",)}
# of a convolution: agents, batch, channels, height, width, outputs, kernel, stride, padding
CONVOLUTIONS = (
    (2, 3, 2, 7, 6, 5, (3, 3), (1, 1), (1, 1)),
    (3, 2, 3, 9, 8, 4, (3, 2), (2, 2), (0, 1)),
    # so many positions that several programs sum an agent's weights, so many weights that several add these sums up
    (2, 2, 16, 33, 33, 16, (2, 2), (1, 1), (0, 0)),
)


@dataclass(frozen=True)
class Case:
    """One call that launches kernels.

    Attributes:
        name: of the op and its example.
        size: as the table shows it.
        call: calls it on fresh copies of its arguments; what it leaves, by name.
        agrees: whether a result, by name, is what the reference gives.
    """

    name: str
    size: str
    call: Callable[[], dict[str, torch.Tensor]]
    agrees: Callable[[str, torch.Tensor], bool]


def sizes(op: Op, arguments: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """(agents, columns) at which an op takes different paths."""
    named = {*arguments}
    more: tuple[tuple[int, int], ...] = ()
    if named & {"neighbors", "W", "sources"}:
        more += TOGETHER
    if op.name in ("gossip_step", "choco_step", "mix_dense"):
        more += FUSED
    if op.name == "gossip_step":
        more += SLICES
    if "counts" in named:
        more += NARROW
    if op.name in ("agent_norm", "collect_gradients"):
        more += LONG
    if "buckets" in named and "neighbors" not in named:
        more += WIDE
    return SIZES + more


def cases(seed: int, variants: int | None = None) -> Iterator[Case]:
    """All of them, drawn anew from a seed; of an op's examples at one size at most so many, drawn too."""
    draw = random.Random(seed)
    for op in ops().values():
        # convolutions have cases of their own
        if "triton" in op.unavailable("cpu") or op.is_layer:
            continue
        first = next(iter(op.examples(2, 96, torch.Generator().manual_seed(0)).values()))
        for agents, columns in sizes(op, first):
            generator = torch.Generator().manual_seed((seed + 31 * agents + columns) % 2**63)
            examples = op.examples(agents, columns, generator)
            chosen = [*examples]
            if variants is not None and len(chosen) > variants:
                chosen = draw.sample(chosen, variants)
                chosen += [v for v in ALWAYS.get(op.name, ()) if v not in chosen]
            for variant in chosen:
                yield case_of(op, variant, f"{agents} x {columns}", examples[variant])
    yield from convolution_cases(seed)


def case_of(op: Op, variant: str, size: str, arguments: dict[str, Any]) -> Case:
    expected = fresh(arguments, "cpu", op.overwrites)
    with use_backend("reference"):
        op(*expected.values())

    def call() -> dict[str, torch.Tensor]:
        got = fresh(arguments, "cpu", op.overwrites)
        with use_backend("triton"):
            op(*got.values())
        return {name: value for name, value in got.items() if isinstance(value, torch.Tensor)}

    def agrees(name: str, value: torch.Tensor) -> bool:
        return op.agrees(name, arguments, value, expected[name])

    return Case(f"{op.name}, {variant}", size, call, agrees)


def convolution_cases(seed: int) -> Iterator[Case]:
    for number, (agents, batch, wide, high, long, narrow, kernel, stride, padding) in enumerate(
        CONVOLUTIONS
    ):
        generator = torch.Generator().manual_seed((seed + number) % 2**63)
        x = torch.randn(agents, batch, wide, high, long, generator=generator)
        weight = torch.randn(agents, narrow, wide, *kernel, generator=generator)
        bias = torch.randn(agents, narrow, generator=generator)
        how = list(stride), list(padding), [1, 1], False
        plain = [
            torch.nn.functional.conv2d(a.double(), w.double(), b.double(), stride, padding)
            for a, w, b in zip(x, weight, bias, strict=True)
        ]
        out = torch.stack(plain).float()
        gradient = torch.randn(out.shape, generator=generator)
        calls: dict[str, Callable[[], torch.Tensor]] = {
            "forward": lambda a=(x, weight, bias, *how): stacked_convolution(*a),
            "input gradient": lambda a=(gradient, weight, [high, long], *how): (
                stacked_convolution_input_gradient(*a)
            ),
            "weight gradient": lambda a=(gradient, x, list(kernel), *how): (
                stacked_convolution_weight_gradient(*a)
            ),
        }
        expected = {"forward": out, **gradients(x, weight, gradient, stride, padding)}
        for name, call in calls.items():
            yield Case(
                f"stacked_convolution, {name}",
                f"{agents} x {batch} x {wide} x {high} x {long}",
                partial(by_triton, call),
                lambda _, value, right=expected[name]: torch.allclose(value, right, 1e-4, 1e-4),
            )


def by_triton(call: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    with use_backend("triton"):
        return {"out": call()}


def gradients(
    x: torch.Tensor,
    weight: torch.Tensor,
    gradient: torch.Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> dict[str, torch.Tensor]:
    """Of all agents' convolutions in float64, by autograd."""
    x, weight = (t.double().requires_grad_() for t in (x, weight))
    outs = [
        torch.nn.functional.conv2d(a, w, None, stride, padding)
        for a, w in zip(x, weight, strict=True)
    ]
    found = torch.autograd.grad(torch.stack(outs), (x, weight), gradient.double())
    return dict(
        zip(("input gradient", "weight gradient"), map(torch.Tensor.float, found), strict=True)
    )
