"""Contract of every op: each implementation equals the reference, writes all it owes and nothing else.

The `triton` cases run on a GPU, or on the CPU where Triton interprets (tests/kernels/test_interpreter.py sees to that).
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from fastsaddle.kernels import native
from fastsaddle.kernels.op import Op, ops, share_columns, use_backend

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = {
    # backend: device, agents, columns
    "native": ("cpu", (1, 2, 3, 16, 17, 130), (32, 96, 1056, 8256)),
    # 257 agents are the first that the table of shapes takes for many
    "triton": (DEVICE, (1, 3, 17, 130, 257), (32, 96, 1056, 8256)),
}
TOGETHER = re.compile("Tensor (neighbors|sources|W)")
# kernels that take another path there than with 130 agents
FUSED = ("gossip_step",)
# sums of squares are of 8192 columns
SUMS = ("agent_norm", "collect_gradients")
RUNNABLE = [b for b in CASES if b != "triton" or INTERPRETING or DEVICE == "cuda"]


# names of arguments that are rows of models: no other argument has one of them
ROWS = {name for op in ops().values() for name in op.rows}


def is_rows(name: str, value: Any) -> bool:
    """Whether an argument is `[agents, columns]` with a row stride of its own."""
    return isinstance(value, torch.Tensor) and value.dim() == 2 and name in ROWS


def cases() -> list[Any]:
    return [
        pytest.param(op, backend, agents, id=f"{op.name}-{backend}-{agents}")
        for op in ops().values()
        for backend in RUNNABLE
        if backend in op.backends
        for agents in CASES[backend][1]
        if not INTERPRETING or is_interpreted(op, agents)
    ]


def is_interpreted(op: Op, agents: int) -> bool:
    """Whether the interpreter, which takes seconds for many agents, would see a path that fewer do not take."""
    if agents > 130:
        return op.name in FUSED
    return agents < 100 or TOGETHER.search(op.schema) is not None


def interpreted_widths(op: Op, agents: int) -> tuple[int, ...]:
    """Columns that the interpreter is asked for: a program's, some more, and several of its own where it is quick."""
    if agents > 17:
        return (32,)
    if agents != 3:
        return (32, 96)
    # whole tensors of more elements than a program holds take other paths, and norms are sums of 8192 columns
    more = (2080,) if "Tensor buckets" in op.schema else (1024, 1056)
    return (32, *more, *((8192, 16416) if op.name in SUMS else ()))


def fresh(
    arguments: Mapping[str, Any], device: str, poison: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A copy that keeps row strides, with guard columns of NaN behind each row and poisoned outputs."""

    def copy(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [copy("", each) for each in value]
        if not isinstance(value, torch.Tensor):
            return value
        if name and is_rows(name, value):
            shape = (value.shape[0], value.shape[1] + 128)
            guarded = torch.full(shape, float("nan"), dtype=value.dtype, device=device)
            guarded = torch.nn.functional.pad(
                guarded, (0, -guarded.shape[1] % 32), value=float("nan")
            )
            view = guarded[:, : value.shape[1]]
            view.copy_(value)
        else:
            view = value.to(device, copy=True)
        if name in poison:
            view.fill_(float("nan") if view.is_floating_point() else 0xA5)
        return view

    return {name: copy(name, value) for name, value in arguments.items()}


def called(op: Op, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments after a call, and what it returned as `out`."""
    made = op(*arguments.values())
    return dict(arguments) if made is None else {**arguments, "out": made}


def guard(value: torch.Tensor) -> torch.Tensor:
    """The columns behind a row buffer that `fresh` made."""
    rows = value.shape[0]
    return value.as_strided((rows, 128), (value.stride(0), 1), value.shape[1])


@pytest.mark.parametrize(("op", "backend", "agents"), cases())
def test_equals_the_reference(op: Op, backend: str, agents: int, seed: int) -> None:
    device, _, widths = CASES[backend]
    if backend in op.unavailable(device):
        pytest.skip(op.unavailable(device)[backend])
    if INTERPRETING:
        widths = interpreted_widths(op, agents)
    for columns in widths:
        examples = op.examples(agents, columns, torch.Generator().manual_seed(seed + columns))
        for variant, arguments in examples.items():
            expected = fresh(arguments, "cpu", op.overwrites)
            with use_backend("reference"):
                expected = called(op, expected)
            got = fresh(arguments, device, op.overwrites)
            with use_backend(backend):
                got = called(op, got)
            for name, value in got.items():
                if isinstance(value, torch.Tensor):
                    assert op.agrees(name, arguments, value, expected[name]), (
                        variant,
                        columns,
                        name,
                    )
                    if is_rows(name, value):
                        assert guard(value).isnan().all(), (
                            f"{variant}: wrote behind the rows of {name}"
                        )


@pytest.mark.parametrize(
    ("op", "agents", "columns"),
    [("gossip_step", 257, 32), ("choco_step", 17, 32), ("quantize", 2, 2080)],
)
def test_triton_scratch_does_not_follow_the_default_dtype(
    op: str, agents: int, columns: int, seed: int
) -> None:
    op = ops()[op]
    if "triton" in op.unavailable(DEVICE):
        pytest.skip(op.unavailable(DEVICE)["triton"])
    examples = op.examples(agents, columns, torch.Generator().manual_seed(seed))
    for variant, arguments in examples.items():
        expected, got = fresh(arguments, "cpu"), fresh(arguments, DEVICE)
        with use_backend("reference"):
            op(*expected.values())
        torch.set_default_dtype(torch.float64)
        try:
            with use_backend("triton"):
                op(*got.values())
        finally:
            torch.set_default_dtype(torch.float32)
        for name, value in got.items():
            if isinstance(value, torch.Tensor):
                assert op.agrees(name, arguments, value, expected[name]), (variant, name)


@pytest.mark.parametrize("op", ops().values(), ids=lambda op: op.name)
def test_writes_only_what_the_schema_marks(op: Op, seed: int) -> None:
    schema = {a.name: a for a in torch._C.parse_schema(op.schema).arguments}
    for variant, arguments in op.examples(5, 96, torch.Generator().manual_seed(seed)).items():
        got = fresh(arguments, "cpu")
        op(*got.values())
        for name, value in got.items():
            if isinstance(value, torch.Tensor) and not schema[name].is_out:
                marked = schema[name].alias_info is not None
                assert marked or torch.equal(value.nan_to_num(), arguments[name].nan_to_num()), (
                    variant,
                    name,
                )


@pytest.mark.parametrize("op", [op for op in ops().values() if op.rows], ids=lambda op: op.name)
def test_wrong_arguments_raise_before_anything_is_written(op: Op, seed: int) -> None:
    variant = next(iter(op.examples(4, 96, torch.Generator().manual_seed(seed)).values()))
    rows = [name for name, value in variant.items() if is_rows(name, value)]
    for name in rows:
        for wrong in (
            variant[name].double(),
            *([variant[name][:, :64]] if len(rows) > 1 else []),
            variant[name].repeat(1, 2)[:, ::2],
            variant[name][0],
        ):
            arguments = fresh(variant, "cpu")
            before = fresh(arguments, "cpu")
            arguments[name] = wrong
            with pytest.raises(ValueError, match=r"must|needs"):
                op(*arguments.values())
            for other, value in arguments.items():
                if isinstance(value, torch.Tensor) and other != name:
                    assert torch.equal(value.nan_to_num(), before[other].nan_to_num()), other
    odd = {n: (v[:, :90] if n in rows else v) for n, v in variant.items()}
    with pytest.raises(ValueError, match=r"multiple of 32|must be"):
        op(*odd.values())


# ops and examples with lists -> the lists, what is written, whose rows are named
LISTS = {
    ("gossip_step", "quasi-global"): ("neighbors", "x", "x"),
    ("mix_update", "quasi-global"): ("neighbors", "x", "h"),
    ("mix_update", "quasi-global-halo"): ("neighbors", "x", "h"),
    ("choco_mix", "quasi-global"): ("neighbors", "x", "x_hat"),
    ("choco_mix", "quasi-global-halo"): ("neighbors", "x", "x_hat"),
    ("mix_neighbors", "degree-2"): ("neighbors", "out", "x"),
    ("mix_neighbors", "halo"): ("neighbors", "out", "x"),
    ("weighted_sum", "rows-3"): ("sources", "out", "rows"),
}


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("case", LISTS, ids="-".join)
def test_wrong_lists_raise_and_write_nothing(
    case: tuple[str, str], backend: str, seed: int
) -> None:
    op, (lists, written, named) = ops()[case[0]], LISTS[case]
    if backend in op.unavailable("cpu"):
        pytest.skip(op.unavailable("cpu")[backend])
    example = op.examples(4, 96, torch.Generator().manual_seed(seed))[case[1]]
    rule = "every list of neighbors or sources must start with a row, name rows in 0..n-1"
    rows = example[named].shape[0]
    # nothing named, a gap, one row too many, far outside
    for wrong in ([-1, -1, -1], [0, -1, 0], [0, rows, -1], [1_000_000, 0, 1]):
        for agent in range(4):
            arguments = fresh(example, "cpu")
            arguments[lists][agent, :3] = torch.tensor(wrong, dtype=torch.int32)
            with use_backend(backend), pytest.raises(ValueError, match=rule):
                op(*arguments.values())
            assert torch.equal(arguments[written], example[written])


@pytest.mark.parametrize("op", ops().values(), ids=lambda op: op.name)
def test_registered_operator_passes_opcheck_and_full_graph_compile(op: Op, seed: int) -> None:
    for arguments in op.examples(3, 64, torch.Generator().manual_seed(seed)).values():
        plain = {
            n: v.contiguous() if isinstance(v, torch.Tensor) else v for n, v in arguments.items()
        }
        torch.library.opcheck(getattr(torch.ops.fastsaddle, op.name).default, tuple(plain.values()))
        torch.compiler.reset()
        compiled = torch.compile(lambda *a: op(*a), fullgraph=True, backend="aot_eager")
        got, expected = fresh(arguments, "cpu"), fresh(arguments, "cpu")
        got["out"], expected["out"] = compiled(*got.values()), op(*expected.values())
        for name, value in got.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value.nan_to_num(), expected[name].nan_to_num()), name


def test_a_wrong_implementation_is_caught(seed: int) -> None:
    op = ops()["mix_neighbors"]
    arguments = op.examples(5, 96, torch.Generator().manual_seed(seed))["degree-2"]
    expected = fresh(arguments, "cpu", op.overwrites)
    op(*expected.values())
    wrong = fresh(arguments, "cpu", op.overwrites)
    weights = wrong["weights"].clone()
    # the largest: a small one's last bit may be lost in each sum
    largest = weights[0].argmax()
    weights[0, largest] = torch.nextafter(weights[0, largest], torch.tensor(2.0))
    op.reference(wrong["x"], wrong["out"], wrong["neighbors"], weights)
    assert not op.agrees("out", arguments, wrong["out"], expected["out"])


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_halves_compose_to_the_whole(backend: str, threads: int, seed: int) -> None:
    every = ops()
    if backend in every["gossip_step"].unavailable("cpu"):
        pytest.skip("native library not built")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        examples = every["gossip_step"].examples(17, 1056, torch.Generator().manual_seed(seed))
        draws = ("seed", "step", "first_agent")
        for variant, arguments in examples.items():
            whole, a = fresh(arguments, "cpu"), fresh(arguments, "cpu")
            with use_backend(backend):
                every["gossip_step"](*whole.values())
                h = torch.empty(17, 1056)
                every["local_step"](
                    *(a[k] for k in ("x", "saved", "g", "momentum")),
                    h,
                    *(a[k] for k in ("lr", "weight_decay", "beta", "norm")),
                    *(a[k] for k in ("kind", "nesterov", "maximize", *draws, "active")),
                )
                every["mix_update"](
                    *(a["x"], a["saved"], h, a["momentum"] if a["kind"] == 2 else None),
                    *(a[k] for k in ("neighbors", "weights", "lr", "mu", "norm", *draws, "active")),
                )
            assert torch.equal(whole["x"], a["x"]), variant
            if a["momentum"] is not None:
                assert torch.equal(whole["momentum"], a["momentum"]), variant
    finally:
        torch.set_num_threads(before)


def norms_of(g: torch.Tensor, backend: str) -> torch.Tensor:
    """What agent_norm gives for the rows of g."""
    norm = torch.full(g.shape[:1], float("nan"), device=g.device)
    skipped = torch.zeros(len(g), dtype=torch.int32, device=g.device)
    with use_backend(backend):
        ops()["agent_norm"](g, None, None, norm, skipped)
    return norm


@pytest.mark.parametrize("backend", RUNNABLE)
def test_a_rows_norm_does_not_depend_on_the_number_of_rows(backend: str, seed: int) -> None:
    device = CASES[backend][0]
    if backend in ops()["agent_norm"].unavailable(device):
        pytest.skip(ops()["agent_norm"].unavailable(device)[backend])
    # three slices and a bit
    g = torch.randn(5, 24608, generator=torch.Generator().manual_seed(seed)).to(device)
    together = norms_of(g, backend)
    for i in range(5):
        assert torch.equal(norms_of(g[i : i + 1], backend)[0], together[i])


if INTERPRETING:

    def test_a_norm_does_not_depend_on_the_order_of_triton_programs(
        seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from triton.runtime.interpreter import InterpreterBuilder

        generator = torch.Generator().manual_seed(seed)
        g = torch.randn(3, 24608, generator=generator)
        in_order, place = norms_of(g, "triton"), InterpreterBuilder.set_grid_idx
        for _ in range(4):
            order = torch.randperm(12, generator=generator).tolist()
            monkeypatch.setattr(
                InterpreterBuilder,
                "set_grid_idx",
                lambda self, x, y, z, order=order: place(self, order[x], y, z),
            )
            assert torch.equal(norms_of(g, "triton"), in_order)


@pytest.mark.parametrize("op", [op for op in ops().values() if op.apart], ids=lambda op: op.name)
def test_memory_that_must_not_be_shared_is_refused(op: Op, seed: int) -> None:
    output, source = op.apart or ("", "")
    example = next(iter(op.examples(3, 64, torch.Generator().manual_seed(seed)).values()))
    buffer = torch.randn(3, 256)
    for first, second in ((0, 0), (0, 32), (32, 0)):
        arguments = {**example, output: buffer[:, first : first + 64]}
        arguments[source] = buffer[:, second : second + 64]
        before = buffer.clone()
        with pytest.raises(ValueError, match="must not share memory"):
            op(*arguments.values())
        assert torch.equal(buffer, before)
    # windows side by side are apart
    op(*{**example, output: buffer[:, :64], source: buffer[:, 64:128]}.values())


def test_rows_share_memory_where_one_of_each_overlaps() -> None:
    flat = torch.zeros(2048)

    def rows(begin: int, stride: int, count: int = 3) -> torch.Tensor:
        return flat.as_strided((count, 64), (stride, 1), begin)

    def held(buffer: torch.Tensor) -> set[int]:
        places = torch.arange(len(flat)).as_strided(
            buffer.shape, buffer.stride(), buffer.storage_offset()
        )
        return {*places.flatten().tolist()}

    windows = [
        rows(begin, stride, count)
        for begin in range(0, 512, 32)
        for stride in (64, 96, 128, 192)
        for count in (1, 3)
    ]
    for a in windows[:16]:
        for b in windows:
            assert share_columns(a, b) == share_columns(b, a) == bool(held(a) & held(b))
    # halves of one buffer are no reason to refuse
    ops()["mix_dense"](rows(0, 64), torch.eye(3), rows(192, 64))


@pytest.mark.parametrize("op", ops().values(), ids=lambda op: op.name)
def test_what_is_written_is_refused_as_another_argument(op: Op, seed: int) -> None:
    for example in op.examples(3, 64, torch.Generator().manual_seed(seed)).values():
        tensors = {n: v for n, v in example.items() if isinstance(v, torch.Tensor)}
        for written in (a.name for a in op.arguments if a.written and a.name in tensors):
            for other, value in tensors.items():
                own = tensors[written]
                if other == written or (value.shape, value.dtype) != (own.shape, own.dtype):
                    continue
                arguments = fresh(example, "cpu")
                arguments[other] = arguments[written]
                before = fresh(arguments, "cpu")
                with pytest.raises(ValueError, match="must not share memory"):
                    op(*arguments.values())
                for name in tensors:
                    same = arguments[name].nan_to_num(), before[name].nan_to_num()
                    assert torch.equal(*same), name


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_autograd_notices_what_an_op_writes(backend: str) -> None:
    op = ops()["sam_perturb"]
    if backend in op.unavailable("cpu"):
        pytest.skip("native library not built")
    x, w = torch.randn(2, 64), torch.randn(2, 64, requires_grad=True)
    loss = (x * w).sum()
    with use_backend(backend):
        op(x, w, torch.empty_like(x), torch.tensor(0.1), torch.ones(2), False, False)
    assert x.grad_fn is None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_library_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if "native" in ops()["consensus"].unavailable("cpu"):
        pytest.skip("native library not built")
    monkeypatch.setattr(native, "digest_of_sources", lambda: "of other sources")
    native.library.cache_clear()
    try:
        with pytest.raises(ImportError, match="compiled from other sources"):
            native.library()
    finally:
        native.library.cache_clear()


def test_forcing_a_backend_that_cannot_run_says_why() -> None:
    op = ops()["consensus"]
    if not INTERPRETING:
        with use_backend("triton"), pytest.raises(ImportError, match=r"(?i)triton"):
            op.choice("cpu")
    with use_backend("native"), pytest.raises(ImportError, match="CPU tensors"):
        op.choice("cuda")
    with pytest.raises(ValueError, match="reference, native, triton"), use_backend("fast"):
        pass
