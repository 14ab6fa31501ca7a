"""Agents that are not active take no local step, as those whose norm is not finite; all others do what they did."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fastsaddle.kernels.op import Op, ops
from tests.kernels.test_halo import BACKENDS, run
from tests.kernels.test_ops import INTERPRETING

MASKED = ("local_step", "gossip_step", "mix_update", "choco_step", "choco_encode", "choco_mix")
# parts of steps that take the local step alone, or all but it
FIRST, LAST = ("local_step", "choco_encode"), ("mix_update", "choco_mix")
AGENTS, COLUMNS = 5, 32 if INTERPRETING else 96
ACTIVE = torch.tensor([True, False, True, True, False])


def examples(name: str, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ops()[name].examples(AGENTS, COLUMNS, torch.Generator().manual_seed(seed)).items()


def assert_equal(name: str, got: dict[str, Any], expected: dict[str, Any], told: str) -> None:
    for key, value in got.items():
        if isinstance(value, torch.Tensor) and key not in ("norm", "active"):
            assert ops()[name].agrees(key, expected, value, expected[key]), (told, key)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MASKED)
def test_an_agent_that_is_not_active_is_one_whose_norm_is_not_finite(
    name: str, backend: str, seed: int
) -> None:
    for variant, arguments in examples(name, seed):
        norm = torch.ones(AGENTS) if arguments["norm"] is None else arguments["norm"]
        for broken in (float("nan"), float("inf")):
            expected = {**arguments, "norm": norm.masked_fill(~ACTIVE, broken), "active": None}
            got = {**arguments, "active": ACTIVE}
            expected, got = run(name, expected, backend), run(name, got, backend)
            assert_equal(name, got, expected, variant)
            assert torch.equal(got["active"], ACTIVE)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MASKED)
def test_a_mask_of_all_is_none(name: str, backend: str, seed: int) -> None:
    for variant, arguments in examples(name, seed):
        everyone, nobody = (
            run(name, {**arguments, "active": torch.full((AGENTS,), value)}, backend)
            for value in (True, False)
        )
        expected = run(name, {**arguments, "active": None}, backend)
        assert_equal(name, everyone, expected, variant)
        start = arguments["x"] if arguments["saved"] is None else arguments["saved"]
        if name == "local_step":
            assert torch.equal(nobody["h"], start), variant
        if arguments["momentum"] is not None:
            assert torch.equal(nobody["momentum"], arguments["momentum"]), variant
            steps = arguments["norm"] is None or bool(arguments["norm"].isfinite().any())
            moves = name in LAST or (arguments["kind"] == 2 and name not in FIRST)
            if steps and (moves or arguments["kind"] == 1):
                assert not torch.equal(everyone["momentum"], arguments["momentum"]), variant


@pytest.mark.parametrize("op", [ops()[name] for name in MASKED], ids=MASKED)
def test_the_mask_may_be_left_out_or_named(op: Op, seed: int) -> None:
    arguments = next(iter(op.examples(AGENTS, 96, torch.Generator().manual_seed(seed)).values()))
    assert list(arguments)[-1] == "active" and arguments["active"] is None
    results = []
    for last in ((), (None,)):
        copies = {n: v.clone() if torch.is_tensor(v) else v for n, v in arguments.items()}
        op(*list(copies.values())[:-1], *last)
        results.append(copies)
    named = {n: v.clone() if torch.is_tensor(v) else v for n, v in arguments.items()}
    named["active"] = torch.ones(AGENTS, dtype=torch.bool)
    op(*list(named.values())[:-1], active=named["active"])
    for other in (results[1], named):
        assert_equal(op.name, other, results[0], op.name)


@pytest.mark.parametrize("op", [ops()[name] for name in MASKED], ids=MASKED)
def test_masks_of_another_type_or_length_are_refused(op: Op, seed: int) -> None:
    arguments = next(iter(op.examples(AGENTS, 96, torch.Generator().manual_seed(seed)).values()))
    for wrong in (
        ACTIVE.float(),
        ACTIVE.to(torch.uint8),
        ACTIVE[:4],
        ACTIVE[:, None],
        torch.tensor(True),
        ACTIVE.repeat_interleave(2)[::2],
        ACTIVE.to("meta"),
    ):
        with pytest.raises(
            ValueError, match=r"active must be torch.bool \[agents\] = \(5,\) on cpu"
        ):
            op(*{**arguments, "active": wrong}.values())
