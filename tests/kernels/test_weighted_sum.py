"""weighted_sum: any rows against float64, the order of terms, refusals: what the contract of all ops does not see."""

from collections.abc import Iterator

import pytest
import torch

from fastsaddle.kernels.op import ops, use_backend

WEIGHTED_SUM = ops()["weighted_sum"]
BACKENDS = [b for b in ("native", "reference") if b not in WEIGHTED_SUM.unavailable("cpu")]


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    with use_backend(request.param):
        yield


def summed(rows: torch.Tensor, sources: list[list[int]], weights: torch.Tensor) -> torch.Tensor:
    out = torch.full((len(sources), rows.shape[1]), float("nan"))
    WEIGHTED_SUM(rows, out, torch.tensor(sources, dtype=torch.int32), weights)
    return out


@pytest.mark.parametrize(("agents", "stacked"), [(1, 7), (5, 19), (23, 4), (64, 1), (3, 200)])
def test_a_sum_of_any_rows_is_that_of_a_dense_matrix_in_float64(
    agents: int, stacked: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(stacked, 2080, generator=generator)
    width = 9
    # any row may come first, and again
    sources = torch.randint(0, stacked, (agents, width), generator=generator)
    lengths = torch.randint(1, width + 1, (agents,), generator=generator)
    weights = torch.randn(agents, width, generator=generator)
    named = torch.arange(width) < lengths[:, None]
    out = summed(rows, torch.where(named, sources, -1).tolist(), weights)
    terms, none = (weights * named).double(), torch.zeros(agents, stacked, dtype=torch.float64)
    expected = none.scatter_add(1, sources, terms) @ rows.double()
    # a rounding of each product and sum
    most = none.scatter_add(1, sources, terms.abs()) @ rows.double().abs()
    assert ((out.double() - expected).abs() <= width * 2.0**-24 * 1.01 * most).all()


def test_terms_are_summed_in_the_lists_order_with_one_rounding_each(seed: int) -> None:
    rows = torch.randn(5, 96, generator=torch.Generator().manual_seed(seed))
    a, b, c = torch.rand(3, generator=torch.Generator().manual_seed(seed + 1)).unbind()
    for order in ([4, 0, 2], [2, 4, 0], [0, 0, 0]):
        one, two, three = (rows[n] for n in order)
        got = summed(rows, [order], torch.stack([a, b, c])[None])
        assert torch.equal(got[0], (a * one + b * two) + c * three)


def test_one_source_of_weight_one_is_a_copy_and_padding_is_not_read(seed: int) -> None:
    rows = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    rows[0] = float("nan")
    weights = torch.tensor([[1.0, float("nan")]]).repeat(6, 1)
    order = [3, 1, 3, 2, 1, 1]
    assert torch.equal(summed(rows, [[n, -1] for n in order], weights), rows[order])


def test_of_mix_neighbors_lists_it_makes_mix_neighbors(seed: int) -> None:
    op = ops()["mix_neighbors"]
    for arguments in op.examples(17, 1056, torch.Generator().manual_seed(seed)).values():
        expected = torch.empty_like(arguments["out"])
        op(arguments["x"], expected, arguments["neighbors"], arguments["weights"])
        WEIGHTED_SUM(*arguments.values())
        assert torch.equal(arguments["out"], expected)


def test_the_number_of_threads_changes_no_bit(seed: int) -> None:
    results = []
    for threads in (1, 2, 5):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            arguments = WEIGHTED_SUM.examples(7, 5152, torch.Generator().manual_seed(seed))[
                "rows-3"
            ]
            WEIGHTED_SUM(*arguments.values())
        finally:
            torch.set_num_threads(before)
        results.append(arguments["out"])
    assert torch.equal(results[1], results[0]) and torch.equal(results[2], results[0])


def test_refusals_of_weighted_sum_name_the_rule(seed: int) -> None:
    example = WEIGHTED_SUM.examples(3, 64, torch.Generator().manual_seed(seed))["rows-3"]
    width = example["sources"].shape[1]
    for changes, message in (
        ({"out": torch.zeros(3, 96)}, r"rows must be .* of 96 columns, got \(9, 64\)"),
        ({"sources": example["sources"].long()}, r"sources must be torch.int32 \[agents, width\]"),
        ({"sources": example["sources"][:2]}, r"sources must be .* = \(3, "),
        ({"sources": example["sources"][:, :0]}, "sources must be"),
        ({"sources": example["sources"].t().contiguous().t()}, "sources must be"),
        ({"weights": torch.rand(3, width + 1)}, "weights must be torch.float32"),
        ({"weights": example["weights"].double()}, "weights must be torch.float32"),
        ({"rows": example["rows"].double()}, "rows must be float32"),
        ({"sources": torch.full((3, width), 9).int()}, "every list of neighbors or sources must"),
        ({"sources": torch.full((3, width), -1).int()}, "every list of neighbors or sources must"),
    ):
        arguments = {**example, **changes}
        before = {n: v.clone() for n, v in arguments.items()}
        with pytest.raises(ValueError, match=message):
            WEIGHTED_SUM(*arguments.values())
        assert all(torch.equal(v, before[n]) for n, v in arguments.items())
