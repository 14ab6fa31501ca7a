"""The few ops that lay the model of benchmarks/model.py beside a GPU, against the copy bandwidth."""

import pytest
import torch

from benchmarks.conftest import Measure, kind, needs
from benchmarks.kernels.test_ops import DRAWN, compare, widened
from benchmarks.modeling.calibration import ELEMENTS, ROWS
from fastsaddle.kernels.op import ops, use_backend

TINY_DIM = 96


@pytest.mark.parametrize(("name", "agents"), ROWS)
def test_calibration(
    name: str,
    agents: int,
    measure: Measure,
    device: str,
    gpu_or_tiny: bool,
    request: pytest.FixtureRequest,
) -> None:
    op = ops()[name]
    reason = op.unavailable(kind(request.config)).get("triton")
    if reason is not None:
        pytest.skip(reason)
    dim = TINY_DIM if gpu_or_tiny else ELEMENTS // agents
    needs(10 * agents * dim * 4, device)
    example = next(iter(op.examples(agents, DRAWN, torch.Generator().manual_seed(0)).values()))
    arguments = widened(op, example, dim, device)
    compare(op, "triton", arguments)
    with use_backend("triton"):
        measure(
            lambda: op(*arguments.values()),
            moved=op.passes(arguments) * agents * dim * 4,
            implementation="triton",
            agents=agents,
            dim=dim,
            info={"op": name, "passes": op.passes(arguments)},
        )
