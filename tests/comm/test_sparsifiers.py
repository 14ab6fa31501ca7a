"""TopK, RandomK and Sign against plain Python: how many, which ones, ties, and means over elements only."""

from math import fsum

import pytest
import torch

from fastsaddle.compressors import RandomK, Sign, TopK
from fastsaddle.optimizer.flat_layout import FlatLayout
from tests.comm.compressor_cases import LAYOUT, messages, rows
from tests.comm.compressor_oracles import bit_string, places, random_columns

pytestmark = pytest.mark.usefixtures("one_thread")

KEEPS = (1e-9, 0.013, 0.1, 0.3, 0.999, 1.0)
TENSORS = places(LAYOUT, LAYOUT.stride)


def coarse(agents: int, layout: FlatLayout, seed: int) -> torch.Tensor:
    """Rows of few magnitudes: many ties, of both signs."""
    x = rows(agents, layout, seed)
    return torch.where(x == 0, x, (x / x.abs().amax(1, keepdim=True) * 3).round())


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("cls", [TopK, RandomK])
def test_k_of_every_tensor_at_least_one(
    cls: type[TopK] | type[RandomK], keep: float, seed: int
) -> None:
    x = rows(2, LAYOUT, seed)
    payload = cls(keep).encode(x, seed, layout=LAYOUT)
    indices = payload.parts["indices"]
    for first, elements in TENSORS:
        of_tensor = (indices >= first) & (indices < first + elements)
        assert of_tensor.sum(1).tolist() == [max(1, int(keep * elements))] * 2
    assert torch.equal(payload.parts["values"], x.gather(1, indices.long()))
    assert cls(keep).delta(513) == max(1, int(keep * 513)) / 513


@pytest.mark.parametrize("ties", [False, True])
def test_top_k_takes_the_largest_and_the_first_of_equals(ties: bool, seed: int) -> None:
    x = coarse(3, LAYOUT, seed) if ties else rows(3, LAYOUT, seed)
    payload = TopK(0.2).encode(x, layout=LAYOUT)
    arrived = TopK(0.2).decode(payload)
    for i, row in enumerate(x.tolist()):
        expected: list[int] = []
        for first, elements in TENSORS:
            order = sorted(range(first, first + elements), key=lambda c: (-abs(row[c]), c))
            expected += sorted(order[: max(1, int(0.2 * elements))])
        assert payload.parts["indices"][i].tolist() == expected
        assert arrived[i].tolist() == [row[c] if c in expected else 0.0 for c in range(len(row))]
        values = x[i, expected].numpy().tobytes()
        assert messages(payload)[i] == values + torch.tensor(expected).int().numpy().tobytes()


@pytest.mark.parametrize("unbiased", [False, True])
def test_random_k_of_a_layout(unbiased: bool, seed: int) -> None:
    x = rows(2, LAYOUT, seed)
    quarter = RandomK(0.25, unbiased)
    payload = quarter.encode(x, seed, 12, layout=LAYOUT, first_agent=3)
    arrived = quarter.decode(payload)
    for i in range(2):
        columns = random_columns(TENSORS, 0.25, seed, 3 + i, 12)
        assert payload.parts["indices"][i].tolist() == columns
        expected = torch.zeros(LAYOUT.stride)
        for first, elements in TENSORS:
            mine = [c for c in columns if first <= c < first + elements]
            growth = elements / max(1, int(0.25 * elements)) if unbiased else 1.0
            expected[mine] = x[i, mine] * torch.tensor(growth)
        assert torch.equal(arrived[i], expected)


def test_signs_and_mean_magnitudes(seed: int) -> None:
    x = coarse(3, LAYOUT, seed)
    x[1, LAYOUT.offsets[1]] = -0.0
    payload = Sign().encode(x, layout=LAYOUT)
    arrived = Sign().decode(payload)
    for i, row in enumerate(x.tolist()):
        signs, scales = b"", b""
        for first, elements in TENSORS:
            mine = row[first : first + elements]
            # over elements: padding does not count
            mean = torch.tensor(fsum(map(abs, mine)) / elements, dtype=torch.float32)
            signs += bit_string([int(value < 0) for value in mine], 1)
            scales += mean.numpy().tobytes()
            expected = [-float(mean) if value < 0 else float(mean) for value in mine]
            assert arrived[i, first : first + elements].tolist() == expected
        assert messages(payload)[i] == signs + scales


def test_zero_has_a_positive_sign() -> None:
    x = torch.tensor([[0.0, -0.0, 3.0, -7.0, 0.0]])
    assert Sign().decode(Sign().encode(x)).tolist() == [[2.0, 2.0, 2.0, -2.0, 2.0]]
    zero = Sign().encode(torch.zeros(2, 9))
    assert not zero.parts["signs"].any() and not Sign().decode(zero).any()


def test_contraction_of_signs_is_the_one_its_docstring_gives(seed: int) -> None:
    x = rows(2, 20_000, seed)
    error = (Sign().decode(Sign().encode(x)) - x).double().square().sum(1)
    power = x.double().square().sum(1)
    contraction = 1 - error / power
    exact = x.double().abs().sum(1).square() / (20_000 * power)
    assert torch.allclose(contraction, exact, rtol=1e-5)
    # 2 / pi for normal rows
    assert bool(((contraction - 0.6366).abs() < 0.03).all())
