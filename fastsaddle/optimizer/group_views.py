"""One parameter group's part of all buffers, as steps work on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fastsaddle.comm.base import Exchange, Round
from fastsaddle.optimizer.rows import Rows
from fastsaddle.optimizer.state import copy_name

if TYPE_CHECKING:
    from fastsaddle.gradients.base import Found
    from fastsaddle.optimizer.shell import Optimizer

# seeds of a step's several row buffers lie as far apart as those of groups, elsewhere
ROW_STRIDE = 0x94D049BB133111EB


@dataclass(frozen=True)
class GroupViews:
    """One group's part of all buffers.

    Attributes:
        index, columns: which group, and where it lies in a row.
        x, g, states: models, gradients and the rule's states.
        exchanges: of each row buffer that a step sends.
    """

    index: int
    columns: slice
    x: torch.Tensor
    g: torch.Tensor
    states: dict[str, torch.Tensor]
    exchanges: list[Exchange]


def views_of(optimizer: Optimizer, index: int) -> GroupViews:
    """Those of group `index`."""
    live, rows, columns = optimizer.live, optimizer.rows, optimizer.columns(index)
    own = optimizer.rule.states_with(optimizer.communicator)
    wide = {s.name: live.flat_state[s.name][:, columns] for s in own if s.width == "columns"}
    numbers = {
        s.name: live.scalar_state[s.name][index if s.width == "scalar" else 0]
        for s in own
        if s.is_per_agent
    }
    kept, heard = optimizer.communicator.states, live.heard.buffers
    exchanges = [
        Exchange(
            layout=live.layouts[index],
            states={
                state.name: live.flat_state[copy_name(row, state.name)][:, columns]
                for state in kept
            },
            halos={
                state.name: heard[copy_name(row, state.name)][:, columns]
                for state in kept
                if copy_name(row, state.name) in heard
            },
            seed=(optimizer.seed_of(index) + k * ROW_STRIDE) % 2**63,
            number=live.rounds,
            squares=live.squares[index, k],
        )
        for k, row in enumerate(optimizer.rule.sends)
    ]
    x, g = rows.x[:, columns], rows.g[:, columns]
    return GroupViews(index, columns, x, g, {**wide, **numbers}, exchanges)


def rows_of(
    optimizer: Optimizer,
    views: GroupViews,
    found: Found,
    scalars: dict[str, torch.Tensor],
    comm: Round,
    some_are_down: bool = False,
) -> Rows:
    """One group's part of a step in progress, in which some agents may have no part."""
    home, columns = optimizer.phase.home, views.columns
    saved = None if home is None else home[:, columns]
    models = views.x if saved is None else saved
    return Rows(
        x=views.x,
        saved=saved,
        gradient=views.g,
        at=comm.told if found.at_mixed and comm.told is not None else models,
        states=views.states,
        group=optimizer.param_groups[views.index],
        scalars=scalars,
        norm=found.norm,
        round=optimizer.rounds,
        columns=columns,
        first_agent=optimizer.communicator.first_agent,
        seed=optimizer.seed_of(views.index),
        may_be_bad=some_are_down or optimizer.nonfinite == "skip" or views.x.device.type != "cpu",
        made=optimizer.made,
    )
