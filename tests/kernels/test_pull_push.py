"""pull_push: its law, its roots and divisions, and refusals, which the contract of all ops does not see."""

from collections.abc import Iterator

import pytest
import torch

from fastsaddle.kernels.op import ops, use_backend

PULL_PUSH = ops()["pull_push"]
BACKENDS = [b for b in ("native", "reference") if b not in PULL_PUSH.unavailable("cpu")]


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    with use_backend(request.param):
        yield


def moved(x: torch.Tensor, center: torch.Tensor, pull: float, push: float) -> torch.Tensor:
    """`x` after pull_push, with the distances of all its columns."""
    x, squared = x.clone(), (x.double() - center.double()).square().sum(1)
    PULL_PUSH(x, center, squared, torch.tensor(pull), torch.tensor(push))
    return x


def test_the_distance_settles_at_push_over_pull(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    center, x = torch.randn(160, generator=generator), torch.randn(5, 160, generator=generator)
    # as far as drawn, very near, very far
    x[1], x[2] = center + 1e-3 * x[1], center + 50.0 * x[2]
    first = x - center
    pull, push = 0.1, 0.37
    for _ in range(300):
        x = moved(x, center, pull, push)
    torch.testing.assert_close((x - center).norm(dim=1), torch.full((5,), push / pull))
    # along the line on which the model was
    cosine = torch.nn.functional.cosine_similarity(x - center, first)
    torch.testing.assert_close(cosine, torch.ones(5), rtol=0.0, atol=1e-3)


def test_pull_alone_is_elastic_averaging_and_one_is_the_center_itself(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    center, x = torch.randn(1120, generator=generator), torch.randn(4, 1120, generator=generator)
    assert torch.equal(moved(x, center, 1.0, 0.0), center.expand(4, -1))
    expected = 0.75 * x.double() + 0.25 * center.double()
    torch.testing.assert_close(moved(x, center, 0.25, 0.0).double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(moved(x, center, 0.0, 0.0), center + (x - center))


def test_the_distance_is_a_float64_root_rounded_once(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # roots in float32 differ from those in float64 for some of so many
    squared = torch.rand(4096, generator=generator, dtype=torch.float64) * 10.0
    x = torch.ones(4096, 32)
    PULL_PUSH(x, torch.zeros(32), squared, torch.tensor(1.0), torch.tensor(1.0))
    assert torch.equal(x[:, 0], 1.0 / squared.sqrt().float())
    assert not torch.equal(x[:, 0], 1.0 / squared.float().sqrt())


def test_no_distance_divides_by_the_smallest_and_nan_stays(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, center = torch.randn(4, 64, generator=generator), torch.randn(64, generator=generator)
    pull, push = torch.tensor([0.5, 0.5, 0.5, 0.25]), torch.tensor([1e-13, 0.0, 2.0, 7.0])
    squared = torch.tensor([0.0, 1e-30, float("nan"), float("inf")], dtype=torch.float64)
    before = x.clone()
    PULL_PUSH(x, center, squared, pull, push)
    small = 0.5 + torch.tensor(1e-13) / torch.tensor(1e-12)
    assert torch.equal(x[0], center + small * (before[0] - center))
    assert torch.equal(x[1], center + 0.5 * (before[1] - center))
    assert x[2].isnan().all()
    assert torch.equal(x[3], center + 0.75 * (before[3] - center))


def test_refusals_of_pull_push_name_the_rule(seed: int) -> None:
    example = PULL_PUSH.examples(3, 64, torch.Generator().manual_seed(seed))["per-agent"]
    for changes, message in (
        ({"center": torch.zeros(32)}, r"center must be torch.float32 \[columns\] = \(64,\)"),
        ({"center": torch.zeros(64).double()}, "center must be torch.float32"),
        ({"center": torch.zeros(128)[::2]}, "center must be torch.float32"),
        ({"center": torch.zeros(1, 64)}, "center must be torch.float32"),
        ({"squared_distance": torch.zeros(3)}, "squared_distance must be torch.float64"),
        ({"squared_distance": torch.zeros(4).double()}, "squared_distance must be torch.float64"),
        ({"pull": torch.zeros(2)}, r"pull must be torch.float32, 0-d or \[agents\] = \(3,\)"),
        ({"push": torch.tensor(1.0).double()}, "push must be torch.float32"),
    ):
        arguments = {**example, **changes}
        before = {n: v.clone() for n, v in arguments.items()}
        with pytest.raises(ValueError, match=message):
            PULL_PUSH(*arguments.values())
        assert all(torch.equal(v, before[n]) for n, v in arguments.items())


def test_the_number_of_threads_changes_no_bit(seed: int) -> None:
    results = []
    for threads in (1, 2, 5):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            arguments = PULL_PUSH.examples(7, 5152, torch.Generator().manual_seed(seed))[
                "per-agent"
            ]
            PULL_PUSH(*arguments.values())
        finally:
            torch.set_num_threads(before)
        results.append(arguments["x"])
    assert torch.equal(results[1], results[0]) and torch.equal(results[2], results[0])
