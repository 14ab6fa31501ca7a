"""The contract of every compressor in the folder: agents and steps apart, weights, windows, error feedback."""

import pytest
import torch

from fastsaddle import compressors
from fastsaddle.compressors.base import Compressor
from fastsaddle.optimizer.flat_layout import FlatLayout
from tests.comm.compressor_cases import (
    EXAMPLES,
    LAYOUT,
    MODULES,
    OWN,
    draws,
    each_compressor,
    messages,
    rows,
)

pytestmark = pytest.mark.usefixtures("one_thread")


and_an_own_one = pytest.mark.parametrize("compressor", (*EXAMPLES, OWN), ids=repr)


def bits(x: torch.Tensor) -> list[list[int]]:
    return x.contiguous().view(torch.int32).tolist()


def windows(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Copies of x: as it is, in wider buffers full of NaN, and transposed."""
    agents, columns = x.shape
    whole = columns + 64 - columns % 32
    found = {"as it is": x.clone(), "transposed": x.t().contiguous().t()}
    for name, width, first in (
        ("aligned", whole, 32),
        ("askew", whole, 7),
        ("odd stride", columns + 5, 2),
    ):
        buffer = torch.full((agents, max(width, columns + first)), float("nan"))
        found[name] = buffer[:, first : first + columns]
        found[name].copy_(x)
    return found


def outside(window: torch.Tensor) -> torch.Tensor:
    """What a wider buffer holds beside a window of `windows`."""
    buffer, first = window._base, window.storage_offset()
    if buffer is None or window.stride(1) != 1:
        return torch.empty(0)
    return torch.cat((buffer[:, :first], buffer[:, first + window.shape[1] :]), dim=1)


@pytest.mark.parametrize("name", MODULES)
def test_every_file_has_examples_of_a_public_class(name: str) -> None:
    examples = MODULES[name].EXAMPLES
    assert examples and len({*examples}) == len(examples)
    for each in examples:
        assert type(each).__module__ == MODULES[name].__name__
        assert getattr(compressors, type(each).__name__) is type(each)
        assert type(each).__name__ in compressors.__all__


@each_compressor
@pytest.mark.parametrize("layout", [None, LAYOUT], ids=["one-tensor", "layout"])
def test_agents_stacked_are_agents_one_by_one(
    compressor: Compressor, layout: FlatLayout | None, seed: int
) -> None:
    x = rows(5, layout or 97, seed)
    payload = compressor.encode(x, seed, 3, layout=layout, first_agent=11)
    together, decoded = messages(payload), compressor.decode(payload)
    for i in range(5):
        alone = compressor.encode(x[i : i + 1], seed, 3, layout=layout, first_agent=11 + i)
        assert messages(alone) == [together[i]]
        assert torch.equal(compressor.decode(alone), decoded[i : i + 1])


@each_compressor
def test_ways_to_say_a_step_agree(compressor: Compressor, seed: int) -> None:
    x = rows(3, LAYOUT, seed)
    steps = torch.tensor([7, 2**33 + 1, 8])
    mixed = messages(compressor.encode(x, seed, steps, layout=LAYOUT))
    for i, step in enumerate(steps.tolist()):
        said = [step, torch.tensor(step), torch.full((3,), step)]
        as_int, *others = (messages(compressor.encode(x, seed, s, layout=LAYOUT)) for s in said)
        assert all(other == as_int for other in others)
        assert mixed[i] == as_int[i]


@and_an_own_one
@pytest.mark.parametrize("like", [37, 96, LAYOUT], ids=["37", "96", "layout"])
@pytest.mark.parametrize("weight", [1.0, -0.3, "0-d", "[agents]"], ids=str)
def test_decoding_adds_with_a_weight(
    compressor: Compressor, like: int | FlatLayout, weight: float | str, seed: int
) -> None:
    x = rows(4, like, seed)
    before = rows(4, x.shape[1], seed + 1)
    layout = like if isinstance(like, FlatLayout) else None
    numbers = torch.randn(4, generator=torch.Generator().manual_seed(seed))
    factor = {"0-d": numbers[0], "[agents]": numbers}[weight] if isinstance(weight, str) else weight
    payload = compressor.encode(x, seed, layout=layout)
    scale = torch.as_tensor(factor, dtype=torch.float32).reshape(-1, 1)
    # value, product and sum round once each
    expected = before + scale * compressor.decode(payload)
    for name, out in windows(before).items():
        compressor.decode_add_(payload, out, factor)
        assert torch.equal(out, expected), name
        assert outside(out).isnan().all(), name


@each_compressor
@pytest.mark.parametrize("like", [37, 96, LAYOUT], ids=["37", "96", "layout"])
def test_where_rows_lie_does_not_matter(
    compressor: Compressor, like: int | FlatLayout, seed: int
) -> None:
    x = rows(4, like, seed)
    layout = like if isinstance(like, FlatLayout) else None
    expected = messages(compressor.encode(x, seed, layout=layout))
    for name, window in windows(x).items():
        assert messages(compressor.encode(window, seed, layout=layout)) == expected, name
        assert bits(window) == bits(x), f"{name}: x was written"
    # one row that stands for all agents
    shared = x[:1].expand(4, -1)
    assert messages(compressor.encode(shared, seed, layout=layout)) == messages(
        compressor.encode(shared.contiguous(), seed, layout=layout)
    )


@and_an_own_one
@pytest.mark.parametrize("like", [37, 96, LAYOUT], ids=["37", "96", "layout"])
def test_residuals_telescope(compressor: Compressor, like: int | FlatLayout, seed: int) -> None:
    layout = like if isinstance(like, FlatLayout) else None
    inputs = [rows(3, like, seed + step) for step in range(12)]
    residual = torch.zeros_like(inputs[0])
    arrived, given = torch.zeros_like(residual).double(), torch.zeros_like(residual).double()
    allowed = torch.zeros_like(given)
    for step, x in enumerate(inputs):
        v = x + residual
        payload = compressor.compress_ef_(x, residual, seed, step, layout=layout)
        arrived += compressor.decode(payload).double()
        given += x.double()
        # sum and difference round once each
        allowed += 2.0**-24 * (v.abs().double() + residual.abs().double())
    assert bool(((arrived + residual.double() - given).abs() <= allowed * (1 + 1e-9)).all())
    if compressor.delta(600) < 1:
        assert residual.any()


@each_compressor
@pytest.mark.parametrize("like", [37, 96, LAYOUT], ids=["37", "96", "layout"])
def test_error_feedback_is_the_generic_one(
    compressor: Compressor, like: int | FlatLayout, seed: int
) -> None:
    layout = like if isinstance(like, FlatLayout) else None
    x, residual = rows(3, like, seed), rows(3, like, seed + 1)
    # zeros of both signs, also where their sum is negative zero
    x[:, 1:15:7], residual[:, 1:15:7] = -0.0, torch.tensor([-0.0, 0.0])
    expected = residual.clone()
    generic = Compressor.compress_ef_(
        compressor, x, expected, seed, 4, layout=layout, first_agent=9
    )
    for name, memory in windows(residual).items():
        before = bits(x)
        got = compressor.compress_ef_(x, memory, seed, 4, layout=layout, first_agent=9)
        assert messages(got) == messages(generic), name
        assert bits(memory) == bits(expected), name
        assert outside(memory).isnan().all(), name
        assert bits(x) == before


@each_compressor
def test_messages_carry_no_autograd_graph(compressor: Compressor, seed: int) -> None:
    x, residual = rows(2, 64, seed).requires_grad_(), torch.zeros(2, 64)
    for payload in (compressor.encode(x, seed), compressor.compress_ef_(x, residual, seed)):
        assert not any(part.requires_grad for part in payload.parts.values())
    assert not residual.requires_grad


def test_three_methods_make_a_compressor(seed: int) -> None:
    x = rows(2, LAYOUT, seed)
    payload = OWN.encode(x, layout=LAYOUT)
    assert torch.equal(OWN.decode(payload), x.half().float())
    assert payload.nbytes == 2 * OWN.message_bytes(LAYOUT) == 2 * 2 * LAYOUT.dim
    assert [len(message) for message in messages(payload)] == [2 * LAYOUT.dim] * 2
    assert OWN.omega(9) is None and Compressor.delta(OWN, 9) == 0.0 and not draws(OWN)
