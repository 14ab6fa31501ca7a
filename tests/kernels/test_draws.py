"""Draws know the agent's number and its counter of rounds, and nothing else of a call: ops of some agents alone, with
the first one's number and their own counters, write what a call of all agents writes to their rows.
"""

from typing import Any

import pytest
import torch

from fastsaddle.kernels.op import Op, ops
from tests.kernels.test_halo import BACKENDS, run
from tests.kernels.test_ops import INTERPRETING

DRAWING = [op for op in ops().values() if "int first_agent" in op.schema]
# one value a bucket or tensor, not one an agent
SHARED = ("buckets", "counts")
AGENTS = 6
# examples let agents 1 and 2 take no step, and so draw nothing
ALONE = ((2, 5), (3, 4))
# columns of one program, and of several buckets or tiles -> which agents are taken alone
CASES = {32: ALONE} if INTERPRETING else {96: ALONE, 2080: ALONE[:1]}

pytestmark = pytest.mark.usefixtures("one_thread")


def part_of(arguments: dict[str, Any], first: int, end: int) -> dict[str, Any]:
    """The arguments of a call with the rows first..end-1 alone; lists must name no others."""

    def cut(name: str, value: Any) -> Any:
        if name == "first_agent":
            return value + first
        if not isinstance(value, torch.Tensor) or value.dim() == 0 or name in SHARED:
            return value
        value = value[first:end]
        if name == "neighbors":
            return torch.where(value >= 0, value - first, value)
        return value[0] if name == "step" and end - first == 1 else value

    return {name: cut(name, value) for name, value in arguments.items()}


def within(arguments: dict[str, Any], first: int, end: int) -> dict[str, Any]:
    """The same with lists of the agents first..end-1 that stay among them."""
    if "neighbors" not in arguments:
        return arguments
    neighbors = arguments["neighbors"].clone()
    own = neighbors[first:end]
    neighbors[first:end] = torch.where(own >= 0, first + (own - first) % (end - first), own)
    return {**arguments, "neighbors": neighbors}


def outputs(op: Op) -> list[str]:
    schema = torch._C.parse_schema(op.schema).arguments
    return [a.name for a in schema if a.alias_info is not None]


def differing(
    op: Op, whole: dict[str, Any], alone: dict[str, Any], first: int, end: int
) -> list[str]:
    """Outputs in which a call of some agents is not what the call of all wrote to their rows."""
    expected = part_of(whole, first, end)
    return [
        name
        for name in outputs(op)
        if expected[name] is not None and not op.agrees(name, expected, alone[name], expected[name])
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", DRAWING, ids=lambda op: op.name)
@pytest.mark.parametrize("counters", ["one counter", "a counter an agent"])
def test_some_agents_draw_as_they_do_among_all(
    op: Op, backend: str, counters: str, seed: int
) -> None:
    def notices(columns: int, parts: tuple[tuple[int, int], ...], seed: int) -> bool:
        """Whether a call of other agents, or in another round, was seen to draw otherwise."""
        noticed = False
        generator = torch.Generator().manual_seed(seed)
        for variant, arguments in op.examples(AGENTS, columns, generator).items():
            if counters == "a counter an agent":
                steps = torch.randint(0, 2**40, (AGENTS,), generator=generator)
                arguments = {**arguments, "step": steps}
            for first, end in parts:
                of_all = within(arguments, first, end)
                whole, some = run(op.name, of_all, backend), part_of(of_all, first, end)
                alone = run(op.name, some, backend)
                assert not differing(op, whole, alone, first, end), (variant, columns, first)
                if noticed:
                    continue
                # the same rows as other agents, or in another round
                number = {"first_agent": arguments["first_agent"]}
                round_ = {"step": some["step"] + 1}
                others = [run(op.name, {**some, **change}, backend) for change in (number, round_)]
                noticed = all(differing(op, whole, other, first, end) for other in others)
        return noticed

    noticed = [notices(columns, parts, seed + columns) for columns, parts in CASES.items()]
    # a table may be drawn with a single element a bucket, of which nothing is left to choose
    again = (notices(min(CASES), ALONE, seed - attempt) for attempt in range(1, 9))
    assert any(noticed) or any(again)


def test_the_ops_that_draw_are_found() -> None:
    names = {"choco_step", "compress_ef", "gossip_step", "local_step", "mix_update", "quantize"}
    assert {*names, "choco_encode", "choco_mix", "top_k"} <= {op.name for op in DRAWING}
