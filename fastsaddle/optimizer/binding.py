"""Lays parameters, gradients and state of an optimizer out flat, and again when they were moved."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Parameter

from fastsaddle.optimizer.flat_parameters import FlatParameters
from fastsaddle.optimizer.hyperparameters import Scalars
from fastsaddle.optimizer.rounded_parameters import is_rounded
from fastsaddle.optimizer.state import ROUND, State

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer

LOG = logging.getLogger(__name__)

# the key of a bfloat16 parameter's float32 master in the state
MASTER = "master"


def bind(optimizer: Optimizer) -> None:
    """Lay everything out; what `optimizer.state` holds is copied, the rest starts anew.

    Buffers that fit stay where they are: a captured graph knows nothing but their addresses.
    """
    optimizer.communicator.catch_up()
    live, groups = optimizer.live, [moving(group) for group in optimizer.param_groups]
    device = optimizer.parameters[0].device
    rows = FlatParameters.over(groups, optimizer.agents, optimizer.stacked, device)
    device, states = rows.x.device, optimizer.states
    fits = live.rows is rows and live.version == rows.version and len(live.layouts) == len(groups)
    # what fails here is done again by the next step: no layout has this version
    live.rows, live.version = rows, -1
    mine = [p for group in groups for p in group]
    if not fits:
        if live.layouts:
            LOG.info("%s: buffers are laid out anew, as parameters were moved", optimizer.who)
        live.made = {}
        live.layouts = [rows.layout.group(index) for index in range(len(groups))]
        shape = (len(groups), len(optimizer.rule.sends), optimizer.agents, 2)
        # a step overwrites them, and only who reads `squares` adds them up
        live.squares = torch.zeros(shape, dtype=torch.float64, device=device)
        skipped = torch.zeros(optimizer.agents, dtype=torch.int32, device=device)
        if live.skipped.numel():
            skipped.copy_(live.skipped)
        live.skipped = skipped
        live.scalars = Scalars(optimizer.agents, device, optimizer.hyperparameters)
        live.rounds = live.rounds.to(device)
        live.flat_state = allocate(optimizer, states, device)
        live.scalar_state = {
            state.name: torch.zeros(
                1 if state.width == "agent" else len(groups),
                optimizer.agents,
                dtype=dtype_of(optimizer, state),
                device=device,
            )
            for state in states
            if state.is_per_agent
        }
    live.dim = sum(p.numel() for p in mine) // optimizer.agents
    live.count = len(mine)
    forget(optimizer)
    set_aside(optimizer)
    keep_masters(optimizer, mine)
    for state in states:
        if state.width == "columns":
            parts = rows.parts(live.flat_state[state.name])
            fill(optimizer, state, mine, parts)
        elif state.width == "agent":
            fill_common(optimizer, state, mine)
        elif state.is_per_agent:
            fill_numbers(optimizer, state, groups)
    bind_rounds(optimizer, mine)
    own = {MASTER, *(state.name for state in states)}
    live.held = [
        (p, name, part) for p in mine for name, part in optimizer.state[p].items() if name in own
    ]
    optimizer.gradient.bind(optimizer)
    optimizer.rule.bind(optimizer)
    live.version = rows.version


def moving(group: dict[str, Any]) -> list[Parameter]:
    """The parameters of a group that steps move: as everywhere in torch, those that require a gradient."""
    return [p for p in group["params"] if p.requires_grad]


def forget(optimizer: Optimizer) -> None:
    """Drop the state of parameters that groups no longer name."""
    named = {id(p) for p in optimizer.parameters}
    gone = [p for p in optimizer.state if isinstance(p, torch.Tensor) and id(p) not in named]
    for p in gone:
        del optimizer.state[p]
    optimizer.live.heard.forget(gone)


def set_aside(optimizer: Optimizer) -> None:
    """Give the state of parameters that stand still memory of its own, until they move again.

    Numbers of their group are those of the parameters that move; they wait only where none does.
    """
    of_group = {state.name for state in optimizer.states if state.width == "scalar"}
    common = {state.name for state in optimizer.states if state.width == "agent"}
    for group in optimizer.param_groups:
        still = [p for p in group["params"] if not p.requires_grad and p in optimizer.state]
        dropped = of_group if moving(group) else set()
        for p in still:
            before = optimizer.state[p]
            optimizer.state[p] = {
                name: value.clone()
                if isinstance(value, torch.Tensor)
                and value is not optimizer.rounds
                and name not in common
                else value
                for name, value in before.items()
                if name not in dropped
            }
            optimizer.live.heard.set_aside(p, before, optimizer.state[p])


def keep_masters(optimizer: Optimizer, mine: list[Parameter]) -> None:
    """Make the float32 master of each bfloat16 parameter part of its state, and take over one that it has there.

    A master that its parameter is not the rounded form of gives way to the parameter, see `RoundedParameters.absorb`.
    """
    rows = optimizer.rows
    for p, part in zip(mine, rows.parts(rows.x), strict=False):
        if not is_rounded(p):
            optimizer.state[p].pop(MASTER, None)
            continue
        held = optimizer.state[p].get(MASTER)
        if held is not None and held.data_ptr() != part.data_ptr():
            part.copy_(held)
        optimizer.state[p][MASTER] = part


def allocate(
    optimizer: Optimizer, states: tuple[State, ...], device: torch.device
) -> dict[str, torch.Tensor]:
    """Zeroed buffers for all states of whole rows; a rule's behind its passing rows, where it has such.

    Behind rows of the agents here lie those of the agents that they hear, where a state has such.
    """
    layout, agents = optimizer.rows.layout, optimizer.agents
    heard, optimizer.live.heard.buffers = optimizer.communicator.heard, {}
    own = [
        s.name for s in optimizer.rule.states_with(optimizer.communicator) if s.width == "columns"
    ]
    found: dict[str, torch.Tensor] = {}
    if optimizer.rule.passing:
        block = layout.allocate((optimizer.rule.passing + len(own)) * agents, device)
        optimizer.live.made["block"] = block
        found |= dict(zip(own, block.split(agents)[optimizer.rule.passing :], strict=True))
    for state in states:
        if state.width != "columns" or state.name in found:
            continue
        rows = 1 if state.rows == "one" else agents
        has_heard = state.rows == "halo" and heard > 0
        buffer = layout.allocate(rows + has_heard * heard, device, dtype_of(optimizer, state))
        found[state.name] = buffer[:rows]
        if has_heard:
            optimizer.live.heard.buffers[state.name] = buffer
    return found


def dtype_of(optimizer: Optimizer, state: State) -> torch.dtype:
    return optimizer.state_dtype if state.dtype == "state" else state.dtype


def fill(
    optimizer: Optimizer, state: State, mine: list[Parameter], parts: list[torch.Tensor]
) -> None:
    """Fill buffers with what parameters hold as this state, and make it their views."""
    start: list[torch.Tensor] | None = None
    heard = optimizer.live.heard
    both = heard.buffers.get(state.name)
    others = () if both is None else optimizer.rows.layout.views(both[optimizer.agents :])
    for k, (p, part) in enumerate(zip(mine, parts, strict=False)):
        held = optimizer.state[p].get(state.name)
        if held is not None:
            part.copy_(held)
        elif state.initial == "mean":
            start = mean_parts(optimizer) if start is None else start
            part.copy_(start[k])
        else:
            part.zero_()
        if others:
            heard.fill(p, state.name, held, part, others[k])
        optimizer.state[p][state.name] = part


def fill_numbers(optimizer: Optimizer, state: State, groups: list[list[Parameter]]) -> None:
    """Fill one number for each group and agent, and make it the state of all of its parameters."""
    for numbers, group in zip(optimizer.live.scalar_state[state.name], groups, strict=True):
        found = (optimizer.state[p].get(state.name) for p in group)
        held = next((value for value in found if value is not None), None)
        if held is None:
            numbers.zero_()
        else:
            numbers.copy_(held)
        for p in group:
            optimizer.state[p][state.name] = numbers


def fill_common(optimizer: Optimizer, state: State, mine: list[Parameter]) -> None:
    """Fill one number for each agent, and make it the state of all parameters, of those that stand still too."""
    numbers, name = optimizer.live.scalar_state[state.name][0], state.name
    everybody = [*mine, *(p for p in optimizer.state if isinstance(p, torch.Tensor))]
    held = next((optimizer.state[p][name] for p in everybody if name in optimizer.state[p]), None)
    if held is None:
        numbers.fill_(float(state.initial == "one"))
    else:
        numbers.copy_(held)
    for p in mine:
        optimizer.state[p][name] = numbers
    for whose, kept in optimizer.state.items():
        if isinstance(whose, torch.Tensor) and name in kept:
            kept[name] = numbers


def mean_parts(optimizer: Optimizer) -> list[torch.Tensor]:
    """The agents' mean model, each parameter's part with a leading dimension of one."""
    columns = optimizer.model_columns
    mean = optimizer.rows.layout.allocate(1, optimizer.rows.x.device)
    mean[0, columns] = optimizer.communicator.mean(optimizer.rows.x[:, columns])[0]
    return optimizer.rows.parts(mean)


def bind_rounds(optimizer: Optimizer, mine: list[Parameter]) -> None:
    """One counter for all parameters, kept as their state where something is drawn or counted by it."""
    rounds, name = optimizer.live.rounds, ROUND.name
    if optimizer.counts_rounds:
        held = next((optimizer.state[p][name] for p in mine if name in optimizer.state[p]), None)
        if held is not None:
            rounds.copy_(held)
        for p in mine:
            optimizer.state[p][name] = rounds
        # of those that stand still too: the steps done are everybody's
        for whose, state in optimizer.state.items():
            if isinstance(whose, torch.Tensor) and name in state:
                state[name] = rounds
