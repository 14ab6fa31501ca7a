"""Messages as rows of bytes: all agents' at once, and back to what they were."""

from collections.abc import Sequence
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsaddle import compressors as fc
from fastsaddle.compressors._wire import runs
from fastsaddle.compressors.base import Compressor, Payload
from fastsaddle.optimizer.flat_layout import FlatLayout
from tests.comm.compressor_cases import EXAMPLES, LAYOUT, LENET, OWN, each_compressor, rows

pytestmark = pytest.mark.usefixtures("one_thread")
ALL_AGENTS = 12


def some_of(payload: Payload, agents: Sequence[int]) -> torch.Tensor:
    """Messages of some agents as they arrive: behind a header of odd length, in a buffer with other bytes."""
    packed = payload.packed()[list(agents)]
    buffer = torch.full((len(agents), packed.shape[1] + 5), 170, dtype=torch.uint8)
    buffer[:, 3 : 3 + packed.shape[1]] = packed
    return buffer[:, 3 : 3 + packed.shape[1]]


def check_read(
    compressor: Compressor, layout: FlatLayout, own: range, heard: Sequence[int], seed: int
) -> None:
    x = rows(ALL_AGENTS, layout, seed)
    step = torch.tensor(2**33 + 5)
    whole = compressor.encode(x, seed, step, layout=layout)
    mine = x[own.start : own.stop]
    like = compressor.encode(mine, seed, step, layout=layout, first_agent=own.start)
    read = Payload.unpacked(some_of(whole, heard), like, heard)
    assert read.shape == (len(heard), layout.stride) and read.layout is layout
    assert torch.equal(read.packed(), whole.packed()[list(heard)])
    value = compressor.decode(read)
    assert torch.equal(value, compressor.decode(whole)[list(heard)])
    for name, part in read.parts.items():
        assert part.is_contiguous() and part.dtype == whole.parts[name].dtype
        if name not in whole.travels or name in whole.made:
            assert torch.equal(part, whole.parts[name][list(heard)])


@each_compressor
@pytest.mark.parametrize("layout", [LAYOUT, LENET, LAYOUT.group(1)], ids=["odd", "lenet", "group"])
def test_messages_are_read_as_they_were(
    compressor: Compressor, layout: FlatLayout, seed: int
) -> None:
    check_read(compressor, layout, range(3, 5), (0, 2, 5, 6, 7, 11), seed)


def test_own_compressors_are_read_without_a_word(seed: int) -> None:
    check_read(OWN, LAYOUT, range(1), (4, 2), seed)


shapes = st.lists(st.integers(0, 70), max_size=2).filter(lambda shape: prod(shape) < 1200)


@settings(max_examples=150, deadline=None)
@given(
    compressor=st.sampled_from(EXAMPLES),
    groups=st.lists(st.lists(shapes, min_size=1, max_size=5), min_size=1, max_size=2).filter(
        lambda groups: any(prod(shape) for group in groups for shape in group)
    ),
    heard=st.lists(st.integers(0, ALL_AGENTS - 1), min_size=1, unique=True),
    first=st.integers(0, ALL_AGENTS - 1),
    seed=st.integers(0, 2**31),
)
def test_any_layout_is_read(
    compressor: Compressor,
    groups: list[list[list[int]]],
    heard: list[int],
    first: int,
    seed: int,
) -> None:
    layout = FlatLayout.pack(groups)
    check_read(compressor, layout, range(first, ALL_AGENTS), heard, seed)


@each_compressor
def test_rows_are_the_messages(compressor: Compressor, seed: int) -> None:
    payload = compressor.encode(rows(4, LAYOUT, seed), seed, layout=LAYOUT)
    packed = payload.packed()
    assert packed.dtype == torch.uint8 and packed.numel() == payload.nbytes
    assert torch.equal(packed, torch.stack([payload.message(i) for i in range(4)]))


@each_compressor
@pytest.mark.parametrize("dim", [1, 31, 97])
def test_rows_without_layout_are_read(compressor: Compressor, dim: int, seed: int) -> None:
    x = rows(5, dim, seed)
    payload = compressor.encode(x, seed, 3)
    read = Payload.unpacked(payload.packed(), payload, range(5))
    assert torch.equal(compressor.decode(read), compressor.decode(payload))


def test_tensors_that_fill_their_columns_are_one_range() -> None:
    full = FlatLayout.pack([[(64,), (32, 3), (128,)]])
    payload = fc.StochasticQuantizer(4).encode(torch.ones(2, full.stride), layout=full)
    assert payload.travels["codes"] == ((0, 144),)
    odd = FlatLayout.pack([[(64,), (33,), (128,)]])
    payload = fc.StochasticQuantizer(8).encode(torch.ones(2, odd.stride), layout=odd)
    assert payload.travels["codes"] == ((0, 97), (128, 256))


def test_what_is_no_message_is_refused() -> None:
    payload = fc.TopK(0.5).encode(torch.ones(2, 10))
    for packed in (payload.packed()[:, 1:], payload.packed().float(), payload.packed()[:1]):
        with pytest.raises(ValueError, match="messages must be uint8"):
            Payload.unpacked(packed, payload, (4, 5))
    lacking = Payload(payload.shape, None, payload.parts, {"indices": ()})
    with pytest.raises(ValueError, match="indices must travel"):
        Payload.unpacked(lacking.packed(), lacking, (0, 1))
    steps = torch.tensor([1, 2])
    payload = fc.RandomK(0.5).encode(torch.ones(2, 10), 0, steps)
    with pytest.raises(ValueError, match="step must be one for all"):
        Payload.unpacked(payload.packed(), payload, (0, 1))


def test_runs_of_agents() -> None:
    assert runs((0, 1, 2, 5, 7, 8)) == [(0, 3), (5, 1), (7, 2)]
    assert runs((3, 2)) == [(3, 1), (2, 1)] and runs(()) == []
