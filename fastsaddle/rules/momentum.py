"""Stochastic gradient descent without momentum, with each agent's own, and with quasi-global momentum."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from typing import Any, Literal, get_args

import torch

from fastsaddle.comm.base import Round, local_models, take_mixed
from fastsaddle.graphs.needs import GraphNeeds
from fastsaddle.optimizer.hyperparameters import Flag, Hyperparameter, Range
from fastsaddle.optimizer.rows import Rows
from fastsaddle.optimizer.state import State
from fastsaddle.rules.base import Rule

Kind = Literal["none", "local", "quasi-global"]


class MomentumKind(IntEnum):
    """How a step treats its momentum row, as the kernels number it."""

    NONE = 0
    LOCAL = 1
    QUASI_GLOBAL = 2


KINDS: dict[str, MomentumKind] = dict(zip(get_args(Kind), MomentumKind, strict=True))
# the name that each kind's buffer has
BUFFERS = {MomentumKind.LOCAL: "momentum_buffer", MomentumKind.QUASI_GLOBAL: "quasi_global"}
BETA = Range(0, 1, default=0.9)


class Momentum(Rule):
    """SGD with no, local or quasi-global momentum, then gossip: adapt, then combine.

        none          u = g
        local         m_i = momentum m_i + g
                      u = m_i, or g + momentum m_i with Nesterov
        quasi-global  m = momentum mh_i + g, which is not kept
                      u = m, or g + momentum m with Nesterov
        each          h_i = x_i - lr u;  x'_i = sum_j W_ij h_j
        quasi-global  mh_i = mu mh_i + (1 - mu) (x_i - x'_i) / lr

    D-PSGD (Lian et al. 2017, arXiv:1705.09056); heavy ball and Nesterov as in torch.optim.SGD; quasi-global momentum
    (Lin et al. 2021, arXiv:2102.04761, algorithm 1 and the authors' code). Buffers start at zero and are in gradient
    units: a change of lr leaves them as they are. At lr = 0 agents mix and the quasi-global buffer stays as it is.
    State: `momentum_buffer` or `quasi_global`.

    With `fs.comm.Gossip(push_sum=True)` rows are sums x, their weights w are mixed like them, and gradients are taken
    at the models z = x / w (Assran et al. 2019, arXiv:1811.10792). A quasi-global buffer then takes
    w'_i (z_i - z'_i) / lr, where w' is the weight after the step. This is EXPERIMENTAL and of our own making, see
    docs/graphs.md.

    Args:
        kind: "none", "local" or "quasi-global".
        momentum: beta, in [0, 1).
        qg_momentum: mu, in [0, 1), of the quasi-global buffer; None means beta.
        nesterov: use Nesterov's form instead of heavy ball.

    Raises:
        ValueError: another kind, or numbers out of range.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> rule = fs.rules.Momentum("quasi-global", momentum=0.9)
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(), rule=rule, communicator=fs.comm.Gossip("ring")
        ... )
        >>> [*optimizer.flat_state]
        ['quasi_global']
    """

    needs = GraphNeeds(symmetric=False)
    takes_saved = True
    is_atomic = True
    exchanges_first = True
    keeps_half = True
    takes_push_sum = True

    def __init__(
        self,
        kind: Kind = "none",
        momentum: float | torch.Tensor = 0.9,
        qg_momentum: float | torch.Tensor | None = None,
        nesterov: bool = False,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        self.kind = KINDS[kind]
        given = {"momentum": momentum, "qg_momentum": qg_momentum, "nesterov": nesterov}
        self.hyperparameters = self._entries()
        super().__init__(**{name: given[name] for name in self.hyperparameters})
        self.ascent_state = BUFFERS.get(self.kind)
        self.states = () if self.ascent_state is None else self._buffers(self.ascent_state)

    @property
    def described(self) -> str:
        kind = next(name for name, kind in KINDS.items() if kind is self.kind)
        return f'{self.name}("{kind}")'

    def _entries(self) -> dict[str, Hyperparameter]:
        if self.kind is MomentumKind.NONE:
            return {}
        middle = {} if self.kind is MomentumKind.LOCAL else {"qg_momentum": Range(0, 1)}
        return {"momentum": BETA, **middle, "nesterov": Flag()}

    def _buffers(self, name: str) -> tuple[State, ...]:
        return (State(name, dtype="state"),)

    def step(self, rows: Rows, comm: Round) -> None:
        comm.gossip_step_(rows.x, rows.local_step(*self._moving(rows)))

    def _moving(self, rows: Rows) -> tuple[int, torch.Tensor | None, str]:
        """Kind, buffer and the entry that it moves by."""
        buffer = None if self.ascent_state is None else rows.states[self.ascent_state]
        mu = "momentum" if rows.group.get("qg_momentum") is None else "qg_momentum"
        return int(self.kind), buffer, mu


class AdaptedMomentum(Momentum):
    """SGD that starts from the mixed models: combine, then adapt. Cross-gradient methods use it.

        x_i = x_i + gamma (sum_j W_ij x_j - x_i) - lr u(G_i + weight_decay x_i)

    with u as in `Momentum`; a quasi-global buffer moves by the displacement of x in the whole step. NGM's order (Aketi,
    Kodge and Roy 2022, arXiv:2209.14390). State: `momentum_buffer` or `quasi_global`; with "mixed" also
    `previous_mixed` and `previous_lr`.

    Args:
        kind: "none", "local" or "quasi-global".
        momentum: beta, in [0, 1).
        qg_momentum: mu, in [0, 1), of the quasi-global buffer; None means beta.
        nesterov: use Nesterov's form instead of heavy ball.
        displacement: what a quasi-global buffer follows. "models": x before a step minus x after it. "mixed", as in the
            authors' code: the mixed models of the last step minus those of this step, over the learning rate of the
            last step, taken in before this step's gradient.

    Raises:
        ValueError: another kind or displacement, or numbers out of range.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> rule = fs.rules.AdaptedMomentum("local", momentum=0.9)
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(), rule=rule, communicator=fs.comm.Gossip("ring")
        ... )
        >>> [*optimizer.flat_state]
        ['momentum_buffer']
    """

    needs = GraphNeeds()
    takes_saved = False
    keeps_half = False
    takes_push_sum = False
    mixes_first = True
    ahead = ("x",)

    def __init__(
        self,
        kind: Kind = "local",
        momentum: float | torch.Tensor = 0.9,
        qg_momentum: float | torch.Tensor | None = None,
        nesterov: bool = False,
        displacement: Literal["models", "mixed"] = "models",
    ) -> None:
        if displacement not in ("models", "mixed"):
            raise ValueError(f'displacement must be "models" or "mixed", got {displacement!r}')
        self.displacement = displacement
        super().__init__(kind, momentum, qg_momentum, nesterov)

    def _entries(self) -> dict[str, Hyperparameter]:
        # None says that momentum is local, in NGM's groups too
        return {"momentum": BETA, "qg_momentum": Range(0, 1), "nesterov": Flag()}

    @property
    def _follows_mixed(self) -> bool:
        return self.kind is MomentumKind.QUASI_GLOBAL and self.displacement == "mixed"

    def _buffers(self, name: str) -> tuple[State, ...]:
        before = (State("previous_mixed"), State("previous_lr", width="scalar"))
        return (State(name), *(before if self._follows_mixed else ()))

    def check_groups(self, groups: list[dict[str, Any]]) -> None:
        given = [group["qg_momentum"] for group in groups]
        if len({value is None for value in given}) > 1:
            raise ValueError(
                f"qg_momentum must be None in all parameter groups or in none, got {given}"
            )

    def step(self, rows: Rows, comm: Round) -> None:
        mixed = comm.mixed_models(rows.x)
        kind, buffer, mu = self._moving(rows)
        if self._follows_mixed and buffer is not None:
            self._absorb(rows, buffer, mixed, mu)
        zero = torch.zeros_like(rows.scalar("lr"))
        step = rows.local_step(
            kind, buffer, mu, saved=None, g=self._direction(rows), weight_decay=zero, maximize=False
        )
        h = local_models(mixed, step)
        if self._follows_mixed:
            # the buffer has followed already
            step = replace(step, kind=int(MomentumKind.NONE), momentum=None)
        take_mixed(rows.x, None, h, step, comm.communicator.alone(h.device))

    def _direction(self, rows: Rows) -> torch.Tensor:
        """The gradient, signed, with weight decay; not finite where the norm is not, which the kernel skips by."""
        g = -rows.gradient if rows.group["maximize"] else rows.gradient
        return g + rows["weight_decay"] * rows.at

    def _absorb(self, rows: Rows, buffer: torch.Tensor, mixed: torch.Tensor, mu: str) -> None:
        """Let the buffer follow what mixed models moved since the step before, where there was one."""
        previous, rate = rows.states["previous_mixed"], rows.states["previous_lr"][:, None]
        moved = (previous - mixed) / torch.where(rate > 0, rate, 1.0)
        followed = rows[mu] * buffer + (1 - rows[mu]) * moved
        buffer.copy_(torch.where(rate > 0, followed, buffer))
        previous.copy_(mixed)
        rate.copy_(rows.lr.expand_as(rate))
