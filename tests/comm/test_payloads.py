"""Messages: as many bytes as are claimed and counted, none of padding, the same in any process."""

import json
import os
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import torch

from fastsaddle import compressors as fc
from fastsaddle.compressors.base import Compressor
from fastsaddle.kernels.op import ops, use_backend
from fastsaddle.optimizer.flat_layout import FlatLayout
from tests.comm.compressor_cases import (
    LAYOUT,
    LENET,
    digests,
    draws,
    each_compressor,
    is_element,
    messages,
    rows,
)

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[2]
OPS = ("compress_ef", "dequantize_add", "quantize", "sign", "top_k")

# (compressor, share of float32's bytes, from how many elements of one tensor on)
SHARES = (
    (fc.StochasticQuantizer(8), 0.27, 50),
    (fc.StochasticQuantizer(8, bucket=None), 0.27, 50),
    (fc.StochasticQuantizer(4), 0.14, 74),
    (fc.StochasticQuantizer(4, bucket=None), 0.14, 74),
    (fc.Sign(), 0.04, 138),
    # 256 magnitudes and a sign are nine bits
    (fc.StochasticQuantizer(8, None, "l2", 255), 0.29, 138),
)


@each_compressor
@pytest.mark.parametrize("dim", [1, 7, 37, 512, 1037])
def test_one_tensor_costs_what_is_claimed(compressor: Compressor, dim: int, seed: int) -> None:
    payload = compressor.encode(rows(3, dim, seed), seed)
    assert payload.nbytes == 3 * compressor.wire_bytes(dim)
    assert [len(message) for message in messages(payload)] == [compressor.wire_bytes(dim)] * 3


@each_compressor
@pytest.mark.parametrize("layout", [LAYOUT, LENET, LAYOUT.group(1)], ids=["odd", "lenet", "group"])
def test_a_layout_costs_its_tensors(compressor: Compressor, layout: FlatLayout, seed: int) -> None:
    payload = compressor.encode(rows(2, layout, seed), seed, layout=layout)
    claimed = compressor.message_bytes(layout)
    assert payload.nbytes == 2 * claimed == sum(map(len, messages(payload)))
    each = [compressor.wire_bytes(prod(shape)) for shape in layout.shapes if prod(shape)]
    # RandomK sends one 64-bit seed for all tensors
    seeds = 8 * (len(each) - 1) if isinstance(compressor, fc.RandomK) else 0
    assert claimed == sum(each) - seeds
    assert all(part.is_contiguous() for part in payload.parts.values())
    assert payload.shape == (2, layout.stride) and payload.layout is layout


@each_compressor
def test_padding_arrives_as_zero(compressor: Compressor, seed: int) -> None:
    x = rows(3, LAYOUT, seed)
    arrived = compressor.decode(compressor.encode(x, seed, layout=LAYOUT))
    assert arrived.shape == x.shape and arrived.dtype == torch.float32
    assert not arrived[:, ~is_element(LAYOUT)].any()
    assert all(bool(view.any()) for view in LAYOUT.views(arrived) if view.numel())


def test_what_is_sent_whole_is_its_elements_and_nothing_else(seed: int) -> None:
    x = rows(2, LAYOUT, seed)
    payload = fc.Identity().encode(x, layout=LAYOUT)
    assert messages(payload) == [row.numpy().tobytes() for row in x[:, is_element(LAYOUT)]]
    assert torch.equal(fc.Identity().decode(payload), x)


@pytest.mark.parametrize(("compressor", "share", "least"), SHARES, ids=repr)
def test_messages_are_small(compressor: Compressor, share: float, least: int, seed: int) -> None:
    payload = compressor.encode(rows(2, 1037, seed))
    assert payload.nbytes <= share * 4 * 1037 * 2
    payload = compressor.encode(rows(2, LENET, seed), layout=LENET)
    assert payload.nbytes <= share * 4 * LENET.dim * 2
    fits = [compressor.wire_bytes(dim) <= share * 4 * dim for dim in range(1, 5000)]
    # from `least` on it holds, and not before
    assert max(dim for dim, small in enumerate(fits, 1) if not small) == least - 1


@each_compressor
def test_messages_repeat(compressor: Compressor, seed: int) -> None:
    x = rows(3, LAYOUT, seed)
    first = messages(compressor.encode(x, seed, 5, layout=LAYOUT, first_agent=2))
    assert first == messages(compressor.encode(x.clone(), seed, 5, layout=LAYOUT, first_agent=2))
    if not draws(compressor):
        return
    same = rows(1, LAYOUT, seed).repeat(3, 1)
    arrived = list(compressor.decode(compressor.encode(same, seed, 5, layout=LAYOUT)))
    for other in ((seed + 1, 5), (seed + 2**32, 5), (seed, 6)):
        arrived += compressor.decode(compressor.encode(same[:1], *other, layout=LAYOUT))
    # three agents, a seed apart in either word, and a step apart
    assert len({each.numpy().tobytes() for each in arrived}) == len(arrived) == 6


def test_another_process_with_more_threads_sends_the_same(seed: int) -> None:
    code = (
        "import json, torch; torch.set_num_threads(3); from tests.comm.compressor_cases import digests; "
        f"print(json.dumps(digests({seed})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == digests(seed)


def sums_float64(compressor: Compressor) -> bool:
    """Whether its scales are float64 sums, in an order that backends choose."""
    euclidean = isinstance(compressor, fc.StochasticQuantizer) and compressor.norm == "l2"
    return euclidean or isinstance(compressor, fc.Sign)


@each_compressor
def test_backends_agree(compressor: Compressor, seed: int) -> None:
    for op in OPS:
        if "native" in ops()[op].unavailable("cpu"):
            pytest.skip(ops()[op].unavailable("cpu")["native"])
    x, residual = rows(5, LAYOUT, seed), rows(5, LAYOUT, seed + 1)
    x[2, LAYOUT.offsets[4] : LAYOUT.offsets[5]] = 0.0
    found = {}
    for backend in ("reference", "native"):
        memory = residual.clone()
        with use_backend(backend):
            sent = compressor.encode(x, seed, 9, layout=LAYOUT, first_agent=3)
            fed_back = compressor.compress_ef_(x, memory, seed, 9, layout=LAYOUT, first_agent=3)
            found[backend] = (sent, compressor.decode(sent)), (fed_back, memory)
    for (one, expected), (two, got) in zip(found["reference"], found["native"], strict=True):
        if sums_float64(compressor):
            scales = [payload.parts["scales"] for payload in (one, two)]
            steps = scales[0].view(torch.int32) - scales[1].view(torch.int32)
            assert int(steps.abs().max()) <= 1
            if bool(steps.any()):
                continue
        assert messages(one) == messages(two)
        assert torch.equal(got, expected)
    # each decodes what the other encoded
    (ours, ours_arrived), (theirs, theirs_arrived) = found["reference"][0], found["native"][0]
    with use_backend("reference"):
        assert torch.equal(compressor.decode(theirs), theirs_arrived)
    with use_backend("native"):
        assert torch.equal(compressor.decode(ours), ours_arrived)
