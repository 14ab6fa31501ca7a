"""gather_batch: copies of the samples, by an oracle of slices; what is refused, and samples beyond 32 bits.

The `triton` cases run interpreted, as those of tests/kernels/test_ops.py.
"""

from typing import Any

import numpy as np
import pytest
import torch

from fastsaddle.kernels.op import ops, use_backend
from tests.kernels.test_ops import CASES, INTERPRETING, RUNNABLE, fresh

GATHER_BATCH = ops()["gather_batch"]
BACKENDS = RUNNABLE if INTERPRETING else ["reference", *RUNNABLE]


def run(backend: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments after a call on copies of them, with a poisoned output."""
    device = CASES[backend][0] if backend in CASES else "cpu"
    if backend in GATHER_BATCH.unavailable(device):
        pytest.skip(GATHER_BATCH.unavailable(device)[backend])
    got = fresh(arguments, device, ("out",))
    with use_backend(backend):
        GATHER_BATCH(*got.values())
    return got


def example(seed: int, variant: str, agents: int = 4, columns: int = 96) -> dict[str, Any]:
    return GATHER_BATCH.examples(agents, columns, torch.Generator().manual_seed(seed))[variant]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "variant", ["levels-still", "levels-moved", "numbers-still", "numbers-moved"]
)
def test_each_pixel_is_where_it_belongs(backend: str, variant: str, seed: int) -> None:
    arguments = example(seed, variant)
    got = run(backend, arguments)["out"].cpu().numpy()
    assert not np.isnan(got).any()
    numbers = arguments["samples"].numpy()
    if arguments["table"] is not None:
        table = arguments["table"].numpy()
        numbers = np.stack([table[c][numbers[:, c]] for c in range(len(table))], axis=1)
    height, width = numbers.shape[2:]
    for at in np.ndindex(*arguments["indices"].shape):
        image = numbers[arguments["indices"][at]]
        if arguments["fill"] is None:
            assert np.array_equal(got[at], image)
            continue
        down, right = arguments["offsets"][at].tolist()
        # as much around it as the image is large
        padded = np.empty((len(image), 3 * height, 3 * width), np.float32)
        padded[:] = arguments["fill"].numpy()[:, None, None]
        padded[:, height : 2 * height, width : 2 * width] = image
        y, x = (n + min(max(move, -n), n) for n, move in ((height, down), (width, right)))
        crop = padded[:, y : y + height, x : x + width]
        assert np.array_equal(got[at], crop[..., ::-1] if arguments["flips"][at] else crop)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_offset_will_do(backend: str, seed: int) -> None:
    arguments = example(seed, "numbers-moved")
    limits = torch.iinfo(torch.int16)
    arguments["offsets"][0, :, 0] = limits.min
    arguments["offsets"][1, :, 1] = limits.max
    got = run(backend, arguments)["out"]
    assert (got[:2] == arguments["fill"].item()).all()


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "triton"])
@pytest.mark.parametrize("index", [-1, 9, 2**31, -(2**62)])
def test_indices_that_name_no_sample_write_nothing(backend: str, index: int, seed: int) -> None:
    arguments = example(seed, "levels-moved")
    assert len(arguments["samples"]) == 9
    arguments["indices"][2, 1] = index
    arguments["out"].fill_(7.0)
    with use_backend(backend), pytest.raises(IndexError, match="every index must name a sample"):
        GATHER_BATCH(*arguments.values())
    assert (arguments["out"] == 7.0).all()


def test_what_does_not_fit_is_refused(seed: int) -> None:
    right = example(seed, "levels-moved")
    size = right["indices"].shape
    wrong = {
        "samples": (
            right["samples"].float(),
            right["samples"][0],
            right["samples"].mT,
            right["samples"][:0],
        ),
        "indices": (right["indices"].int(), right["indices"][0], right["indices"][:, :0]),
        "out": (right["out"].double(), right["out"][:, 1:], right["out"].mT.contiguous().mT),
        "table": (None, right["table"][:2], right["table"][:, 1:], right["table"].double()),
        "fill": (None, right["fill"][:2]),
        "offsets": (None, right["offsets"].int(), right["offsets"][:1]),
        "flips": (None, right["flips"].byte(), torch.zeros(*size, 1, dtype=torch.bool)),
    }
    for name, values in wrong.items():
        for value in values:
            arguments = {**right, name: value}
            before = arguments["out"].clone()
            with pytest.raises(ValueError, match="must be"):
                GATHER_BATCH(*arguments.values())
            assert torch.equal(arguments["out"], before), name


@pytest.mark.parametrize("backend", ["triton" if INTERPRETING else "native"])
def test_samples_beyond_32_bits(backend: str, seed: int) -> None:
    """Only the pages of a 2 GB buffer that are touched are there."""
    near = example(seed, "levels-still")
    shape = near["samples"].shape[1:]
    count = 2**31 // shape.numel() + 9
    far = torch.empty(count, *shape, dtype=torch.uint8)
    far[-9:] = near["samples"]
    got = near["out"].fill_(float("nan"))
    if backend in GATHER_BATCH.unavailable("cpu"):
        pytest.skip(GATHER_BATCH.unavailable("cpu")[backend])
    with use_backend(backend):
        GATHER_BATCH(far, near["indices"] + count - 9, got, near["table"], None, None, None)
    assert torch.equal(got, near["table"][0][near["samples"].long()][near["indices"]])
