"""One parameter group of all agents, as a rule's step speaks of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from fastsaddle.comm.base import LocalStep, local_models
from fastsaddle.kernels._shared.step.reference import LOCAL, NONE

MOMENTUM = "momentum_buffer"


@dataclass(eq=False)
class Rows:
    """One parameter group of the agents here, as a rule works on it; buffers are `[agents, columns]` float32.

    Args:
        x: the models, to be overwritten; in a rule with `takes_saved` they may be perturbed.
        saved: the models, if x holds perturbed ones; else None.
        gradient: the gradients as they were taken: not negated, without weight decay, and not finite for agents whose
            `norm` is not; `g` is ready for use.
        at: the models at which gradients and weight decay are taken.
        states: the rule's states by name, to be overwritten: rows, or `[agents]` for scalars.
        group: the parameter group, for options that are no numbers.
        scalars: the hyperparameters that are numbers, as float32 tensors, 0-d or `[agents]`; "" is zero.
        norm: `[agents]` float32: agents for which it is not finite have no gradient in this step.
        round: steps done before, int64, 0-d or `[agents]`.
        columns: where the group lies in a row.
        first_agent: number of the first row's agent.
        seed: seed of this group's draws.
        may_be_bad: whether gradients that are not finite can have come this far.
        made: what the rule makes once for these buffers.
    """

    x: torch.Tensor
    saved: torch.Tensor | None
    gradient: torch.Tensor
    at: torch.Tensor
    states: Mapping[str, torch.Tensor]
    group: dict[str, Any]
    scalars: Mapping[str, torch.Tensor]
    norm: torch.Tensor
    round: torch.Tensor
    columns: slice
    first_agent: int
    seed: int
    may_be_bad: bool
    made: dict[str, Any]

    @cached_property
    def g(self) -> torch.Tensor:
        """Gradients to descend along, with weight decay added, zero where they are not finite. Do not write to it."""
        g, decay = self.gradient, self.group["weight_decay"]
        g = -g if self.group["maximize"] else g
        if isinstance(decay, torch.Tensor) or decay != 0:
            g = g + self["weight_decay"] * self.at
        # on a CPU a gradient that is not finite has been refused already, unless it is to be skipped
        return torch.where(self.norm.isfinite()[:, None], g, 0.0) if self.may_be_bad else g

    def scalar(self, name: str) -> torch.Tensor:
        """A hyperparameter as a float32 tensor, 0-d or `[agents]`; zero if the group has none of this name.

        Args:
            name: name of the entry.
        """
        return self.scalars.get(name, self.scalars[""])

    @property
    def agents(self) -> int:
        """Number of agents, the rows of the buffers."""
        return self.x.shape[0]

    @property
    def lr(self) -> torch.Tensor:
        """The learning rate, float32, 0-d or `[agents, 1]`, so that it broadcasts over rows."""
        return self["lr"]

    def number(self, name: str) -> Any:
        """A hyperparameter as the group has it, in double precision; for a tensor, as `rows[name]` gives it.

        Args:
            name: name of the entry.
        """
        value = self.group[name]
        return self[name] if isinstance(value, torch.Tensor) else value

    def __getitem__(self, name: str) -> torch.Tensor:
        """A hyperparameter, float32, 0-d or `[agents, 1]`: it broadcasts over rows."""
        return column(self.scalar(name))

    def block(self, buffers: int) -> torch.Tensor:
        """The rule's passing rows, and its first states behind them, as one buffer, `[buffers * agents, columns]`.

        Args:
            buffers: number of buffers, in the declared order.
        """
        block: torch.Tensor = self.made["block"]
        return block[: buffers * self.agents, self.columns]

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What a callable returns, called once for these buffers, for all groups and pieces, and then kept.

        Args:
            name: name under which it is kept.
            make: makes it.
        """
        # names apart from those of gradients and the optimizer
        mine: dict[str, Any] = self.made.setdefault("once", {})
        if name not in mine:
            mine[name] = make()
        return mine[name]

    def local_step(
        self,
        kind: int = NONE,
        momentum: torch.Tensor | None = None,
        mu: str = "momentum",
        **others: Any,
    ) -> LocalStep:
        """The arguments of the fused step: SGD along the gradient with the group's hyperparameters.

        Args:
            kind: 0 no momentum, 1 local, 2 quasi-global.
            momentum: the momentum buffer.
            mu: name of the entry that moves a quasi-global buffer.
            others: fields of `fs.comm.LocalStep` to set to other values.
        """
        scalar, group = self.scalar, self.group
        step = LocalStep(
            self.saved,
            self.gradient,
            momentum,
            scalar("lr"),
            scalar("weight_decay"),
            scalar("momentum"),
            scalar(mu),
            self.norm,
            kind,
            bool(group.get("nesterov", False)),
            bool(group["maximize"]),
            self.seed,
            self.round,
            self.first_agent,
        )
        return replace(step, **others) if others else step

    def descended(self, start: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """start - lr sgd(direction), new; it moves the state `momentum_buffer` if the rule has one.

        Args:
            start: `[agents, columns]` float32.
            direction: shaped alike: signed for descent and with weight decay, as `g` is.
        """
        lr, momentum = self.scalar("lr"), self.states.get(MOMENTUM)
        zero = torch.zeros_like(lr)
        return local_models(
            start,
            self.local_step(
                NONE if momentum is None else LOCAL,
                momentum,
                saved=None,
                g=direction,
                weight_decay=zero,
                # no group has an entry of this name: zero
                mu="",
                norm=None,
                maximize=False,
            ),
        )

    def piece(self, part: slice) -> Rows:
        """The same for some of the columns.

        Args:
            part: the columns.
        """

        def cut(rows: torch.Tensor) -> torch.Tensor:
            return rows[:, part] if rows.dim() == 2 else rows

        return Rows(
            self.x[:, part],
            None if self.saved is None else self.saved[:, part],
            self.gradient[:, part],
            self.at[:, part],
            {name: cut(rows) for name, rows in self.states.items()},
            self.group,
            self.scalars,
            self.norm,
            self.round,
            slice(self.columns.start + part.start, self.columns.start + part.stop),
            self.first_agent,
            self.seed,
            self.may_be_bad,
            self.made,
        )


def column(scalar: torch.Tensor) -> torch.Tensor:
    """A scalar for all agents, or one for each, as it broadcasts over rows."""
    return scalar if scalar.dim() == 0 else scalar[:, None]
