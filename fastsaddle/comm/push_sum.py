"""Gossip of sums on graphs that point one way: what arrives is divided by the weight that has arrived."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from fastsaddle.comm.base import Exchange, LocalStep, fused_step_, local_models, take_mixed
from fastsaddle.comm.lists import Meeting
from fastsaddle.comm.stacked import StackedGossip
from fastsaddle.graphs.schedule import Schedule, kind_of
from fastsaddle.optimizer.state import State

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer

PUSH_WEIGHT = State("push_weight", width="agent", dtype=torch.float64, initial="one")


@dataclass(frozen=True, kw_only=True)
class WeighedMeeting(Meeting):
    """A gossip with the weights w before and after it, float64 `[agents]`."""

    before: torch.Tensor
    after: torch.Tensor


class PushSumGossip(StackedGossip):
    """Gossip that keeps the sum of x = w z, z being the models that parameters hold.

        x_i = w_i z_i - lr u_i;   x_i = sum_j P_ij x_j;   w_i = sum_j P_ij w_j;   z_i = x_i / w_i

    The weights w begin at one, are the same function of the schedule whatever is trained, and never travel. They are
    float64, made of the weights that kernels mix with, of which each column's sum is one exactly. The numerators x are
    there within a step alone: w z has them back to float32's rounding, which is what a gossip of them costs, too. Where
    W is doubly stochastic w stays one, and all bits are those of `StackedGossip`.

    Args:
        schedule, consensus_step, every, rounds, dense: as in `StackedGossip`.
    """

    push_sum = True
    # whether local step and gossip may be one kernel
    fuses = True
    # pieces of a step would not know of each other's weights
    is_elementwise = False

    def __init__(
        self,
        schedule: Schedule | None,
        consensus_step: float = 1.0,
        every: int = 1,
        rounds: int = 1,
        dense: bool | Literal["auto"] = "auto",
    ) -> None:
        # of doubly stochastic ones rows: w then stays one to the bit
        columns = schedule is not None and kind_of(schedule) == "column-stochastic"
        super().__init__(schedule, consensus_step, every, rounds, dense, columns=columns)

    @property
    def shared_states(self) -> tuple[State, ...]:  # type: ignore[override]
        return (PUSH_WEIGHT, *super().shared_states)

    def gossips(self, optimizer: Optimizer) -> bool:
        # agents that talk to nobody keep their weights, which a local step needs, too
        return True

    def meetings(self, optimizer: Optimizer) -> tuple[Meeting, ...]:
        device = optimizer.rounds.device
        gossips: tuple[Meeting, ...] = ()
        if super().gossips(optimizer):
            stays = self._changing is None
            static = (Meeting(0, self.lists(device), self.messages),) * self.rounds if stays else ()
            gossips = static or super().meetings(optimizer)
        weights = self._weights_along(gossips, optimizer)
        if not gossips:
            w = weights[0]
            return (WeighedMeeting(0, self.alone(device), 0, before=w, after=w.clone()),)
        return tuple(
            WeighedMeeting(**vars(meeting), before=before, after=after)
            for meeting, before, after in zip(gossips, weights, weights[1:], strict=False)
        )

    def _weights_along(
        self, gossips: tuple[Meeting, ...], optimizer: Optimizer
    ) -> list[torch.Tensor]:
        """w of the agents here before each of a step's gossips, and after the last."""
        weights = [optimizer.scalar_state[PUSH_WEIGHT.name][0]]
        for meeting in gossips:
            lists = meeting.lists
            weights.append(passed_on(lists.neighbors, lists.weights, weights[-1]))
        return weights

    def finish(self, optimizer: Optimizer) -> int:
        rounds = optimizer.phase.rounds
        assert rounds is not None
        last = rounds[0].meetings[-1]
        assert isinstance(last, WeighedMeeting)
        optimizer.scalar_state[PUSH_WEIGHT.name].copy_(last.after)
        return super().finish(optimizer)

    def gossip_step_(self, x: torch.Tensor, step: LocalStep, exchange: Exchange) -> None:
        first, last = exchange.meetings[0], exchange.meetings[-1]
        assert isinstance(first, WeighedMeeting) and isinstance(last, WeighedMeeting)
        before, after = first.before.float(), last.after.float()[:, None]
        start = x if step.saved is None else step.saved
        # decay is that of the models
        step = replace(step, saved=None, weight_decay=step.weight_decay / before)
        follows, is_one = step.kind == 2, len(exchange.meetings) == 1
        dense = self.dense and first.lists.width > 1
        # a buffer that follows models takes w' (z - z'), of the weight after the step
        shown = exchange.memory("shown", x.shape) if follows else None
        fuses = self.fuses and is_one and not follows and not dense
        h = None if fuses else exchange.memory("h", x.shape)
        if shown is not None:
            torch.mul(start, after, out=shown)
        torch.mul(start, before[:, None], out=x)
        if h is None:
            fused_step_(x, step, first.lists)
        else:
            self._halves(x, shown, local_models(x, step, h), step, exchange, dense)
        x.div_(after)
        for meeting in exchange.meetings:
            exchange.count(meeting.messages)

    def _halves(
        self,
        x: torch.Tensor,
        shown: torch.Tensor | None,
        h: torch.Tensor,
        step: LocalStep,
        exchange: Exchange,
        dense: bool,
    ) -> None:
        """Mix h by all graphs of the step, the last one together with the momentum where that can be."""
        *earlier, last = exchange.meetings
        lists = last.lists
        if dense:
            earlier, lists = [*earlier, last], self.alone(x.device)
        for meeting in earlier:
            h = self.pulled(h, replace(exchange, meetings=(meeting,)))
        take_mixed(x, shown, h, step, lists)


def passed_on(neighbors: torch.Tensor, weights: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """sum_j P_ij w_j, float64 `[agents]`, new; in an order of sums that all devices keep."""
    parts = weights.double() * w[neighbors.clamp(min=0).long()]
    while parts.shape[1] > 1:
        half = (parts.shape[1] + 1) // 2
        paired = parts[:, :half].clone()
        paired[:, : parts.shape[1] - half] += parts[:, half:]
        parts = paired
    return parts[:, 0]
