"""Runs of an optimizer on a stack, and of its parts in threads that stand for processes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.thread_transport import run_in_threads

AGENTS = 8
SHAPES = ((4, 5), (), (37,))
# one agent a thread, several, uneven numbers of them, all in one
COUNTS = ((1,) * 8, (2, 2, 2, 2), (3, 1, 2, 2), (3, 5), (8,))
Make = Callable[..., Any]


@dataclass
class Found:
    """What a run left.

    Attributes:
        x: models, `[agents, numbers]`.
        states: by name, rows of the agents; shared: those that all agents have together.
        nbytes: bytes sent.
        losses: of each step and agent.
        optimizer: itself.
    """

    x: torch.Tensor
    states: dict[str, torch.Tensor]
    shared: dict[str, torch.Tensor]
    nbytes: int
    losses: list[torch.Tensor] = field(default_factory=list)
    optimizer: Any = None


def start(seed: int) -> list[torch.Tensor]:
    """All agents' first models."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(AGENTS, *shape, generator=draw) for shape in SHAPES]


def closure_of(
    optimizer: Any, first: int, losses: list[torch.Tensor]
) -> Callable[[], torch.Tensor]:
    """Losses that differ by agent number and depend on the model, so that SAM's second gradient is another."""

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        agents = torch.arange(first, first + len(parameters[0])).float()
        pulls = [
            ((p.flatten(1) if p.dim() > 1 else p[:, None]) - 0.3 * agents[:, None]).cosh().log()
            for p in parameters
        ]
        loss = torch.stack([pull.sum(1) for pull in pulls]).sum(0)
        loss.sum().backward()
        losses.append(loss.detach())
        return loss.detach()

    return closure


def run(
    make: Make,
    models: list[torch.Tensor],
    part: slice,
    steps: int,
    state: dict[str, Any] | None = None,
    **options: Any,
) -> Found:
    """Some steps of the agents of a part, from `models` of all; two parameter groups."""
    a, b, c = (nn.Parameter(model[part].clone()) for model in models)
    groups = [{"params": [a, b]}, {"params": [c], "lr": 0.01}]
    optimizer = make(groups, **options)
    if state is not None:
        optimizer.load_state_dict(state)
    losses: list[torch.Tensor] = []
    closure = closure_of(optimizer, part.start, losses)
    for _ in range(steps):
        optimizer.step(closure)
    return found(optimizer, losses)


def found(optimizer: Any, losses: list[torch.Tensor]) -> Found:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    agents = len(parameters[0])
    x = torch.cat([p.detach().reshape(agents, -1) for p in parameters], 1)
    rows = {state.name: state.rows for state in optimizer.states}
    held = {name: t.clone() for name, t in optimizer.flat_state.items()}
    held |= {name: t.T.clone() for name, t in optimizer.scalar_state.items()}
    states = {name: t[:agents] for name, t in held.items() if rows[name] != "one"}
    shared = {name: t for name, t in held.items() if rows[name] == "one"}
    return Found(x, states, shared, optimizer.bytes_sent, losses, optimizer)


def run_apart(
    make: Make,
    models: list[torch.Tensor],
    counts: tuple[int, ...],
    steps: int,
    states: list[dict[str, Any]] | None = None,
    overlap: Any = "off",
    **options: Any,
) -> list[Found]:
    """The same in threads that hold so many agents each."""

    def work(transport: Any) -> Found:
        here = Placement(counts, transport, overlap)
        part = slice(here.first_agent, here.first_agent + here.agents)
        state = None if states is None else states[here.rank]
        return run(make, models, part, steps, state, placement=here, **options)

    results = run_in_threads(len(counts), work, timeout=20)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]


def joined(parts: list[Found]) -> Found:
    """What parts of the agents left, as one."""
    first = parts[0]
    states = {name: torch.cat([p.states[name] for p in parts]) for name in first.states}
    for name, rows in first.shared.items():
        assert all(torch.equal(rows, p.shared[name]) for p in parts), name
    losses = [torch.cat(each) for each in zip(*(p.losses for p in parts), strict=True)]
    x = torch.cat([p.x for p in parts])
    return Found(x, states, first.shared, sum(p.nbytes for p in parts), losses)


def models_of(parts: list[Found]) -> list[torch.Tensor]:
    """All agents' models, as `start` gives them, from runs of parts of them."""
    return [
        torch.cat([p.detach() for p in same])
        for same in zip(
            *([p for g in f.optimizer.param_groups for p in g["params"]] for f in parts),
            strict=True,
        )
    ]


def spread(parts: list[Found], first: int, end: int) -> dict[str, Any]:
    """The state dict of agents `first` to `end`, cut from those of the parts that held them all."""
    held = [part.optimizer.state_dict() for part in parts]
    one = {s.name for s in parts[0].optimizer.states if s.rows == "one"}
    state: dict[int, dict[str, Any]] = {}
    for index, values in held[0]["state"].items():
        state[index] = {
            key: torch.cat([h["state"][index][key] for h in held])[first:end]
            if isinstance(value, torch.Tensor) and value.dim() and key not in one
            else value
            for key, value in values.items()
        }
    return {**held[0], "state": state}


def assert_equal(got: Found, wanted: Found) -> None:
    """All bits."""
    assert torch.equal(got.x, wanted.x)
    assert got.states.keys() == wanted.states.keys()
    for name, rows in wanted.states.items():
        assert torch.equal(got.states[name], rows), name
    for name, rows in wanted.shared.items():
        assert torch.equal(got.shared[name], rows), name
    assert got.nbytes == wanted.nbytes
    assert all(torch.equal(a, b) for a, b in zip(got.losses, wanted.losses, strict=True))
