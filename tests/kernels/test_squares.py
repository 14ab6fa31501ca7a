"""One norm whatever path took the gradient: squares that were added up where gradients were written."""

import pytest
import torch

from fastsaddle.kernels.agent_norm import agent_norm
from fastsaddle.kernels.collect_gradients import collect_gradients
from fastsaddle.kernels.norm_of_squares import norm_of_squares
from fastsaddle.kernels.op import use_backend
from tests.kernels.test_ops import CASES, RUNNABLE

# numbers of each parameter, and where it begins: within a slice of 8192 columns, across several, at the edge of one
SIZES = (5, 700, 8192, 20_000, 1, 33)
STARTS = (0, 32, 8192, 16_384, 36_384 + 32, 40_960)
COLUMNS = 41_088


@pytest.mark.parametrize("backend", [*RUNNABLE, "reference"])
@pytest.mark.parametrize("agents", [1, 3])
def test_norms_are_those_of_agent_norm_to_the_bit(backend: str, agents: int, seed: int) -> None:
    device = CASES.get(backend, ("cpu",))[0]
    if backend in agent_norm.unavailable(device):
        pytest.skip(agent_norm.unavailable(device)[backend])
    generator = torch.Generator().manual_seed(seed)
    g = torch.zeros(agents, COLUMNS, device=device)
    parts = [torch.randn(agents, size, generator=generator).to(device) for size in SIZES]
    # scales apart, so that the order of sums shows
    parts = [part * 10.0**k for k, part in enumerate(parts)]
    squares = torch.full((agents, 6), torch.nan, dtype=torch.float64, device=device)
    norms = torch.empty(2, agents, device=device)
    skipped = torch.zeros(2, agents, dtype=torch.int32, device=device)
    gate = torch.ones(agents, device=device)
    with use_backend(backend):
        collect_gradients(g, parts, list(STARTS), squares)
        norm_of_squares(squares, gate, norms[0], skipped[0])
        agent_norm(g, None, gate, norms[1], skipped[1])
    assert torch.equal(*norms) and not skipped.any()
    for part, start in zip(parts, STARTS, strict=True):
        assert torch.equal(g[:, start : start + part.shape[1]], part)
    assert int(g.count_nonzero()) == sum(int(part.count_nonzero()) for part in parts)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"starts": [0, 48]}, "ascending multiples of 32"),
        ({"starts": [64, 0]}, "ascending multiples of 32"),
        ({"starts": [0, 96]}, "lie side by side within 128 columns"),
        ({"starts": [0]}, "with a start for each"),
        ({"parts": [torch.zeros(2, 3), torch.zeros(3, 50)]}, r"part 1 must be float32 \[agents"),
        ({"parts": [torch.zeros(2, 3).double(), torch.zeros(2, 9)]}, "part 0 must be float32"),
        ({"parts": [torch.zeros(2, 3, 4).mT, torch.zeros(2, 9)]}, "part 0 must be float32"),
        ({"squares": torch.zeros(2, 2, dtype=torch.float64)}, r"8192\] = \(2, 1\)"),
    ],
)
def test_what_cannot_be_collected(wrong: dict[str, object], rule: str) -> None:
    arguments = {
        "g": torch.zeros(2, 128),
        "parts": [torch.ones(2, 3), torch.ones(2, 50)],
        "starts": [0, 64],
        "squares": torch.zeros(2, 1, dtype=torch.float64),
        **wrong,
    }
    with pytest.raises(ValueError, match=rule):
        collect_gradients(*arguments.values())
    assert not arguments["g"].any()
