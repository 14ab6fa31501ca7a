"""Mixing with rows of agents elsewhere: lists may name rows behind the agents' own, as many as were received."""

from typing import Any

import pytest
import torch

from fastsaddle.kernels._shared.bfloat16.reference import passes_of
from fastsaddle.kernels.op import ops, use_backend
from tests.kernels.test_ops import CASES, INTERPRETING, RUNNABLE, fresh

BACKENDS = ["reference", *RUNNABLE]
HALOS = [
    ("mix_neighbors", "halo"),
    *(("mix_update", v) for v in ("plain-halo", "quasi-global-halo")),
    ("mix_update", "quasi-global-saved-halo-bfloat16"),
    *(("choco_mix", v) for v in ("plain-halo", "quasi-global-halo")),
    ("choco_mix", "quasi-global-saved-halo-bfloat16"),
]
# what the rows come in as, and where what was mixed goes
ENDS = {"mix_neighbors": ("x", "out"), "mix_update": ("h", "x"), "choco_mix": ("x_hat", "x")}


def device_of(backend: str) -> str:
    return CASES.get(backend, ("cpu",))[0]


def run(name: str, arguments: dict[str, Any], backend: str) -> dict[str, Any]:
    """A copy of the arguments, after a call on `backend`."""
    device = device_of(backend)
    if backend in ops()[name].unavailable(device):
        pytest.skip(ops()[name].unavailable(device)[backend])
    got = fresh(arguments, device)
    with use_backend(backend):
        ops()[name](*got.values())
    return {n: v.cpu() if isinstance(v, torch.Tensor) else v for n, v in got.items()}


def of_all(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The same call of a process that has all agents: those behind the first mix nothing but themselves."""
    rows, out = (arguments[end] for end in ENDS[name])
    agents, stacked = len(out), len(rows)

    def longer(key: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.shape[:1] != (agents,):
            return value
        more = value.new_zeros(stacked - agents, *value.shape[1:])
        if key == "neighbors":
            more -= 1
            more[:, 0] = torch.arange(agents, stacked)
        if key == "weights":
            more[:, 0] = 1.0
        return torch.cat((value, more))

    return {**{n: longer(n, v) for n, v in arguments.items()}, ENDS[name][0]: rows}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", HALOS, ids="-".join)
def test_rows_received_mix_as_if_all_agents_were_here(
    case: tuple[str, str], backend: str, seed: int
) -> None:
    name, variant = case
    for agents, columns in ((1, 96), (6, 96), (17, 32 if INTERPRETING else 2080)):
        generator = torch.Generator().manual_seed(seed + agents)
        arguments = ops()[name].examples(agents, columns, generator)[variant]
        rows = arguments[ENDS[name][0]]
        assert len(rows) > agents and bool((arguments["neighbors"] >= agents).any())
        got, expected = run(name, arguments, backend), run(name, of_all(name, arguments), backend)
        for key in (ENDS[name][1], "momentum"):
            if got.get(key) is not None:
                assert torch.equal(got[key], expected[key][:agents]), (agents, key)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ENDS)
def test_rows_that_no_list_names_are_not_read(name: str, backend: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    arguments = ops()[name].examples(5, 96, generator)[next(v for n, v in HALOS if n == name)]
    source, out = ENDS[name]
    named = arguments["neighbors"][arguments["neighbors"] >= 0].unique()
    unnamed = torch.ones(len(arguments[source]), dtype=torch.bool).index_fill(
        0, named.long(), False
    )
    more = torch.cat((arguments[source], torch.full((4, 96), float("nan"))))
    more[: len(unnamed)][unnamed] = float("nan")
    got, expected = (
        run(name, {**arguments, source: rows}, backend)[out] for rows in (more, arguments[source])
    )
    assert torch.equal(got, expected) and bool(got.isfinite().all())


@pytest.mark.parametrize("name", ENDS)
def test_fewer_rows_than_agents_are_refused(name: str, seed: int) -> None:
    op, (source, out) = ops()[name], ENDS[name]
    arguments = next(iter(op.examples(4, 96, torch.Generator().manual_seed(seed)).values()))
    for rows, message in (
        (arguments[source][:3], r"at least 4 rows of 96 columns, got \(3, 96\)"),
        (torch.zeros(9, 64), r"at least 4 rows of 96 columns, got \(9, 64\)"),
        (torch.zeros(9, 96).double(), f"{source} must be float32"),
        (torch.zeros(9, 96, device="meta"), f"{source} must be on cpu, got meta"),
    ):
        changed = fresh(arguments, "cpu")
        with pytest.raises(ValueError, match=message):
            op(*{**changed, source: rows}.values())
        assert torch.equal(changed[out], arguments[out])


@pytest.mark.parametrize("name", ENDS)
def test_foreign_rows_are_read_once(name: str, seed: int) -> None:
    op, (source, out) = ops()[name], ENDS[name]
    for variant, arguments in op.examples(6, 96, torch.Generator().manual_seed(seed)).items():
        alone = {**arguments, source: arguments[source][:6]}
        more = op.passes(arguments) - op.passes(alone)
        foreign = (len(arguments[source]) - len(arguments[out])) * passes_of(arguments[source])
        assert more * 6 == pytest.approx(foreign), variant
