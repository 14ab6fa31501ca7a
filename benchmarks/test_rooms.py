"""Every room and every implementation that runs here, against the copy bandwidth of the same run."""

from typing import Any

import pytest
import torch

from benchmarks.conftest import DEVICE, Measure
from fastsaddle import topology
from fastsaddle.flat import FlatLayout
from fastsaddle.kernels._op import Op, rooms, use_backend

SIZES = {
    # agents, parameters of one agent
    "cpu": ((16, 1_000_000), (256, 62_500)),
    "cuda": ((1, 2**26), (16, 2**22), (128, 2**19), (1024, 2**16)),
}[DEVICE]


def cases() -> list[Any]:
    found = []
    for op in rooms().values():
        for backend in ("native", "triton", "reference"):
            if backend in op.unavailable(DEVICE):
                continue
            for agents, dim in SIZES[:1] if backend == "reference" else SIZES:
                found.append(
                    pytest.param(op, backend, agents, dim, id=f"{op.name}-{backend}-{agents}x{dim}")
                )
    return found


def padded(op: Op, arguments: dict[str, Any], agents: int, dim: int, device: str) -> dict[str, Any]:
    """The arguments as a run would hold them: rows as FlatLayout pads them, a ring's neighbor lists."""
    layout = FlatLayout.pack([[(dim,)]])
    columns = layout.ranges[0][1]

    def placed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.shape != (agents, columns):
            return value.to(device) if isinstance(value, torch.Tensor) else value
        rows = layout.allocate(agents, device)[:, :columns]
        return rows.copy_(value)

    result = {name: placed(value) for name, value in arguments.items()}
    if "neighbors" in result:
        lists = topology.ring(agents).mixing_lists()
        result["neighbors"], result["weights"] = (part.to(device) for part in lists)
    if "norm" in result and op.name != "agent_norm":
        # an agent with a spoiled gradient takes no step: here all do
        result["norm"] = torch.ones(agents, device=device)
    return result


@pytest.mark.parametrize(("op", "backend", "agents", "dim"), cases())
def test_room(op: Op, backend: str, agents: int, dim: int, measure: Measure, device: str) -> None:
    columns = FlatLayout.pack([[(dim,)]]).ranges[0][1]
    generator = torch.Generator().manual_seed(torch.seed() % 2**32)
    example = next(iter(op.examples(agents, columns, generator).values()))
    arguments = padded(op, example, agents, dim, device)
    with use_backend(backend):
        measure(
            lambda: op(*arguments.values()),
            moved=op.passes(arguments) * agents * dim * 4,
            implementation=backend,
            agents=agents,
            dim=dim,
            info={"room": op.name, "passes": op.passes(arguments)},
        )
    expected, got = (padded(op, example, agents, dim, device) for _ in range(2))
    with use_backend("reference"):
        op(*expected.values())
    with use_backend(backend):
        op(*got.values())
    for name, value in got.items():
        if isinstance(value, torch.Tensor):
            wrong = value != expected[name]
            if op.tolerance is not None and name in op.overwrites:
                allowed = op.tolerance(name, arguments, expected[name])
                wrong &= (value.double() - expected[name].double()).abs() > allowed
            assert not wrong.any(), name
