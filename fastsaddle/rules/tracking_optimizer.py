"""Base of methods that are written as a few lines over whole rows, the way their papers do."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from fastsaddle.comm.base import Communicator, LocalStep, local_models
from fastsaddle.kernels.arguments import ALIGNMENT
from fastsaddle.optimizer.decentralized_optimizer import DecentralizedOptimizer

MOMENTUM = "momentum_buffer"
# bytes of one row buffer that a box works on at once on a CPU: its passing buffers then stay in the caches
PIECE = 2**19


@dataclass(frozen=True)
class Rows:
    """One parameter group of all agents, as a method's box speaks of it; buffers are `[agents, columns]` float32.

    Attributes:
        x: the models, to be overwritten.
        g: the gradients, signed for descent, with weight decay; zero for agents whose gradient is not finite. To be
            read only.
        states: the method's buffers by name, to be overwritten.
        lr, beta, weight_decay: float32, 0-d or `[agents]`.
        number: int64, 0-d: rounds done before.
        group: the parameter group, for options of the method's own.
        columns: where it lies in a row.
        communicator: how rows travel.
    """

    x: torch.Tensor
    g: torch.Tensor
    states: Mapping[str, torch.Tensor]
    lr: torch.Tensor
    beta: torch.Tensor
    weight_decay: torch.Tensor
    number: torch.Tensor
    group: dict[str, Any]
    columns: slice
    communicator: Communicator

    def mixed(self, rows: torch.Tensor) -> torch.Tensor:
        """W rows, new: sum_j W_ij rows_j with the consensus step folded in."""
        return self.communicator.mixed(rows)

    def descended(self, start: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """start - lr sgd(direction), new; moves the momentum buffer where the method has one."""
        zero, momentum = torch.zeros_like(self.lr), self.states.get(MOMENTUM)
        step = LocalStep(
            saved=None,
            g=direction,
            momentum=momentum,
            lr=self.lr,
            weight_decay=zero,
            beta=self.beta,
            mu=zero,
            norm=None,
            kind=0 if momentum is None else 1,
            nesterov=bool(self.group.get("nesterov", False)),
            maximize=False,
            # this momentum is float32, and nothing is drawn
            seed=0,
            number=self.number,
        )
        return local_models(start, step)


class TrackingOptimizer(DecentralizedOptimizer):
    """Base of methods that send whole rows and whose step is a `box` over them.

    A gradient that is not finite counts as zero with `nonfinite="skip"`: the sums that such methods keep over agents
    stay right. Between the ops (mixing, local step) arithmetic is PyTorch's, one rounding an operation.
    """

    # buffers a method keeps, and rows that it sends to each neighbor in a step
    buffers: ClassVar[tuple[str, ...]] = ()
    sent: ClassVar[int] = 1

    @property
    def state_names(self) -> tuple[str, ...]:
        return self.buffers

    def box(self, rows: Rows) -> None:
        """The method's step for some columns of a parameter group: overwrite `rows.x` and `rows.states`."""
        # every method has its own
        raise NotImplementedError

    def _advance(self, norm: torch.Tensor) -> None:
        # all read before the first group moves: a bad value must leave nothing half done
        self._apply([self._rows(index) for index in self._filled()], norm)
        self.bytes_sent += 4 * self.sent * self.communicator.messages * self.dim
        self.rounds.add_(1)

    def _apply(self, groups: list[Rows], norm: torch.Tensor) -> None:
        """Every group's step, piece by piece: columns have nothing to do with each other."""
        for rows in groups:
            agents, columns = rows.x.shape
            size = columns
            if rows.x.device.type == "cpu":
                size = max(ALIGNMENT, PIECE // (4 * agents) // ALIGNMENT * ALIGNMENT)
            for first in range(0, columns, size):
                self.box(self._piece(rows, slice(first, min(first + size, columns)), norm))

    @property
    def _evaluated(self) -> torch.Tensor:
        """The models that gradients and weight decay are taken at, rows like x."""
        return self.rows.x

    def _filled(self) -> list[int]:
        """Numbers of the groups that have columns."""
        ranges = self.rows.layout.ranges[: len(self.param_groups)]
        return [index for index, (first, end) in enumerate(ranges) if end > first]

    def _rows(self, index: int) -> Rows:
        group, columns = self.param_groups[index], self._columns(index)
        return Rows(
            x=self.rows.x[:, columns],
            g=self.rows.g[:, columns],
            states={name: rows[:, columns] for name, rows in self.flat_state.items()},
            lr=self._scalar(index, "lr"),
            beta=self._scalar(index, "momentum"),
            weight_decay=self._scalar(index, "weight_decay"),
            number=self.rounds,
            group=group,
            columns=columns,
            communicator=self.communicator,
        )

    def _piece(self, rows: Rows, part: slice, norm: torch.Tensor) -> Rows:
        """Some columns of a group, with the gradient as the box wants it."""
        columns = slice(rows.columns.start + part.start, rows.columns.start + part.stop)
        g, decay = rows.g[:, part], rows.group["weight_decay"]
        g = -g if rows.group["maximize"] else g
        if isinstance(decay, torch.Tensor) or decay != 0:
            g = g + column(rows.weight_decay) * self._evaluated[:, columns]
        # on a CPU a gradient that is not finite has been refused already, unless it is to be skipped
        if self.nonfinite == "skip" or g.device.type != "cpu":
            g = torch.where(norm.isfinite()[:, None], g, 0.0)
        states = {name: state[:, part] for name, state in rows.states.items()}
        return replace(rows, x=rows.x[:, part], g=g, states=states, columns=columns)


def column(scalar: torch.Tensor) -> torch.Tensor:
    """A scalar for all agents, or one for each, as it broadcasts over rows."""
    return scalar if scalar.dim() == 0 else scalar[:, None]
