"""Every op and every implementation that runs here, against the copy bandwidth of the same run."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from benchmarks.conftest import Measure, has_all_rows, kind, needs, scale
from fastsaddle.compressors._wire import largest_of, table_of
from fastsaddle.graphs import topology
from fastsaddle.kernels.op import Op, ops, use_backend
from fastsaddle.optimizer.flat_layout import FlatLayout

# agents, parameters of one agent; the first alone for the reference and, without --all-rows, for ops beside a step
SMALL = {"cpu": ((16, 1_000_000), (256, 62_500)), "tiny": ((5, 300), (3, 130))}
# the specification need not be fast: without --all-rows a CPU computes less of it
QUICK_REFERENCE = ((16, 100_000),)
# on a GPU: 256 MB a buffer for all ops, those of a step on more stacks and from 1 MB to 8 GB
ELEMENTS = 2**26
GPU_AGENTS = (16, 256, 1024, 4096)
STEP_OPS = ("agent_norm", "sam_perturb", "gossip_step", "quantize", "choco_step")
STEP_AGENTS = (16, 1, 64, 128, 256, 1024, 4096)
STEP_SIZES = tuple((agents, 2**n) for n in (18, 22, 24, 28, 31) for agents in (16, 1024))
# up to 1 GB a buffer, results are compared with the reference's
COMPARED = 2**28
DRAWN = 32
# ops that do not work on rows of models have benchmarks of their own
ON_DATA = ("gather_batch", "collect_gradients", "norm_of_squares")
# ops that take whole tensors; the others' buckets have so many elements
WHOLE_TENSORS, BUCKET = ("sign", "top_k"), 512
KEPT = 0.1
# state kept as bfloat16
HALF = "quasi-global-bfloat16"
HALF_OPS = ("gossip_step", "choco_step")


def sizes(name: str, wanted_scale: str) -> Sequence[tuple[int, int]]:
    """(agents, parameters of one agent) to measure an op at."""
    if wanted_scale != "cuda":
        return SMALL[wanted_scale]
    agents = STEP_AGENTS if name in STEP_OPS else GPU_AGENTS
    further = STEP_SIZES if name in STEP_OPS else ()
    return [(n, elements // n) for n, elements in (*((n, ELEMENTS) for n in agents), *further)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    device, wanted_scale = kind(metafunc.config), scale(metafunc.config)
    found, is_full = [], has_all_rows(metafunc.config)
    # what a step needs comes first, should time run out
    on_rows = (op for name, op in ops().items() if name not in ON_DATA and not op.is_layer)
    for op in sorted(on_rows, key=lambda op: op.name not in STEP_OPS):
        for backend in ("native", "triton", "reference"):
            if backend not in op.unavailable(device):
                wanted = sizes(op.name, wanted_scale)
                if backend == "reference":
                    wanted = wanted[:1] if is_full else QUICK_REFERENCE
                elif not (op.name in STEP_OPS or is_full):
                    wanted = wanted[:1]
                for agents, dim in wanted:
                    for variant in (None, *([HALF] if op.name in HALF_OPS else [])):
                        what = op.name if variant is None else f"{op.name}-bfloat16"
                        name = f"{what}-{backend}-{agents}x{dim}"
                        found.append(pytest.param(op, variant, backend, agents, dim, id=name))
    metafunc.parametrize(("op", "variant", "backend", "agents", "dim"), found)


def widened(op: Op, arguments: dict[str, Any], dim: int, device: str) -> dict[str, Any]:
    """Arguments drawn for DRAWN columns, on rows of `dim` columns as a run would hold them, on a ring."""
    agents = next(v.shape[0] for v in arguments.values() if isinstance(v, torch.Tensor))
    layout = FlatLayout.pack([[(dim,)]])
    columns = layout.ranges[0][1]
    result = {}
    for name, value in arguments.items():
        is_tensor = isinstance(value, torch.Tensor)
        # codes of 8 bits have the shape of rows
        if is_tensor and value.shape == (agents, DRAWN) and value.is_floating_point():
            value = layout.allocate(agents, device, value.dtype)[:, :columns]
            value[:, :dim].normal_()
        elif is_tensor and value.shape == (DRAWN,):
            value = torch.randn(columns, device=device)
        result[name] = value.to(device) if is_tensor else value
    if "neighbors" in result:
        lists = topology.ring(agents).mixing_lists()
        result["neighbors"], result["weights"] = (part.to(device) for part in lists)
    if "sources" in result:
        # of the k-th gradients of all agents, an agent sums that of its k-th neighbor: each row is read once
        neighbors, weights = (part.to(device) for part in topology.ring(agents).mixing_lists())
        stacks = neighbors.shape[1]
        result["rows"] = layout.allocate(stacks * agents, device)[:, :columns]
        result["rows"][:, :dim].normal_()
        first = agents * torch.arange(stacks, dtype=torch.int32, device=device)
        result["sources"], result["weights"] = neighbors + first, weights
    if "buckets" in result:
        bucket = None if op.name in WHOLE_TENSORS else BUCKET
        result.update(message(result, layout, bucket, device))
    if isinstance(result.get("norm"), torch.Tensor) and op.name != "agent_norm":
        # an agent with a spoiled gradient takes no step: here all do
        result["norm"] = torch.ones(agents, device=device)
    return result


def message(
    arguments: dict[str, Any], layout: FlatLayout, bucket: int | None, device: str
) -> dict[str, Any]:
    """The arguments that depend on how a row of one tensor is cut into buckets and packed."""
    place = layout.group(0)
    table, kept = table_of(place, bucket, torch.device(device)), int(KEPT * layout.dim)
    shapes = {
        "codes": (place.stride * arguments.get("bits", 8) // 8, torch.uint8),
        "signs": (place.stride // 8, torch.uint8),
        "scales": (len(table), torch.float32),
        "indices": (kept, torch.int32),
        "values": (kept, torch.float32),
    }
    found: dict[str, Any] = {"buckets": table}
    if "bucket" in arguments:
        found["bucket"] = largest_of(place, bucket)
    if "counts" in arguments:
        found["counts"] = torch.tensor([kept], dtype=torch.int32, device=device)
    for name, (width, dtype) in shapes.items():
        part = arguments.get(name)
        if part is not None:
            drawn = torch.randint(0, 100, (len(part), width), device=device)
            found[name] = drawn.to(dtype)
    return found


def copied(arguments: dict[str, Any]) -> dict[str, Any]:
    """Copies with the strides of the originals."""

    def copy(value: torch.Tensor) -> torch.Tensor:
        if value.dim() != 2:
            return value.clone()
        rows = torch.empty(value.shape[0], value.stride(0), dtype=value.dtype, device=value.device)
        return rows[:, : value.shape[1]].copy_(value)

    return {n: copy(v) if isinstance(v, torch.Tensor) else v for n, v in arguments.items()}


def test_op(
    op: Op,
    variant: str | None,
    backend: str,
    agents: int,
    dim: int,
    measure: Measure,
    device: str,
) -> None:
    # rows of the op, those of the copy beside it, and what drawing them takes
    needs(10 * agents * dim * 4, device)
    generator = torch.Generator().manual_seed(torch.seed() % 2**32)
    examples = op.examples(agents, DRAWN, generator)
    example = next(iter(examples.values())) if variant is None else examples[variant]
    arguments = widened(op, example, dim, device)
    # what is wrong is not timed
    if agents * dim <= COMPARED and backend != "reference":
        compare(op, backend, arguments)
    with use_backend(backend):
        measure(
            lambda: op(*arguments.values()),
            moved=op.passes(arguments) * agents * dim * 4,
            implementation=backend,
            agents=agents,
            dim=dim,
            info={
                "op": op.name if variant is None else f"{op.name}, bfloat16 state",
                "passes": op.passes(arguments),
            },
        )


def compare(op: Op, backend: str, arguments: dict[str, Any]) -> None:
    """One call on copies of the arguments, beside the reference's."""
    expected, got = copied(arguments), copied(arguments)
    with use_backend("reference"):
        op(*expected.values())
    with use_backend(backend):
        op(*got.values())
    for name, value in got.items():
        if isinstance(value, torch.Tensor):
            assert not value.isnan().any(), name
            assert op.agrees(name, expected, value, expected[name]), name
