"""Sharpness-aware gradients: every agent's model is moved to its perturbation, where the gradient is taken."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Literal

import torch

from fastsaddle.comm.base import Communicator
from fastsaddle.compressors._wire import row_norms
from fastsaddle.gradients.ascents import ESAM, Ascent, FullSAM, LookSAM, MomentumSAM
from fastsaddle.gradients.base import AtRows, Found, Gradient
from fastsaddle.kernels._shared.philox.reference import ASCENT, halves
from fastsaddle.kernels.op import use_backend
from fastsaddle.kernels.sam_perturb import sam_perturb
from fastsaddle.optimizer.flat_layout import round_up
from fastsaddle.optimizer.hyperparameters import COMMON, Range, check_group
from fastsaddle.optimizer.own_gradient import with_gradient
from fastsaddle.optimizer.ranges import ranged
from fastsaddle.optimizer.state import ROUND, State

if TYPE_CHECKING:
    from fastsaddle.gradients.base import Closure
    from fastsaddle.optimizer.shell import Optimizer
    from fastsaddle.rules.base import Rule

# keeps a row of zeros from being divided by zero
SMALL = 1e-12
# random bits of one draw, and elements of one block of them
BITS, BLOCK = 16, 8
# draws at a step's several models lie as far apart as those of groups, elsewhere
SLOT_STRIDE = 0xBF58476D1CE4E5B9


class SAM(Gradient):
    """The gradient at x + rho g / ||g||, with one norm over the whole model of each agent.

    Foret et al. 2020 (arXiv:2010.01412), algorithm 1. Weight decay is not part of the perturbation: it enters the step,
    at the restored model. `sam` chooses a cheaper way.

    There are three ways to call a step; `closure_passes` says which one is meant, and it is never guessed:

    * `step(closure)`, closure_passes=2: the closure does zero_grad, loss and backward, and is called twice.
    * `loss.backward(); step(closure, closure_passes=1)`: the closure does loss and backward of the second pass;
      gradients are zeroed before it is called.
    * `loss.backward(); perturb(zero_grad=True); loss2.backward(); step()`, without a closure; `first_step` and
      `second_step` are the same under their customary names.

    A step that needs fewer passes (see `fs.Optimizer.passes`) calls the closure less often: with `fs.LookSAM` most
    steps need no `perturb()`, with `fs.MomentumSAM` it needs no gradient.

    Args:
        rho: perturbation radius, >= 0: a number, or a tensor, 0-d or `[agents]`; an entry of the parameter groups.
        adaptive: perturb by rho x^2 g / || |x| g || instead (ASAM, Kwon et al. 2021, arXiv:2102.11600, without its
            constant); a suitable rho is then about ten times larger.
        sam: a cheaper way to the gradient: `fs.LookSAM(...)`, `fs.MomentumSAM()` or `fs.ESAM(...)`; None takes both
            passes. LookSAM adds the states `sharp_direction` and `step`, ESAM adds `step`.
        closure_passes: which passes call the closure given to `step`: 2 for both, 1 for the second alone.

    Raises:
        ValueError: rho is out of range, `sam` is something else, or another number of passes.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fs.Optimizer(model.parameters(), lr=0.1, gradient=fs.gradients.SAM(rho=0.05))
        >>> inputs = torch.randn(8, 3)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = model(inputs).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)
    """

    hyperparameters = {"rho": Range(0, inf, default=0.05)}

    def __init__(
        self,
        rho: float | torch.Tensor = 0.05,
        adaptive: bool = False,
        sam: Ascent | None = None,
        closure_passes: Literal[1, 2] = 2,
    ) -> None:
        self.hyperparameters["rho"].check("rho", rho)
        self.sam = FullSAM() if sam is None else sam
        if not isinstance(self.sam, Ascent):
            raise ValueError(
                f"sam must be fs.LookSAM(...), fs.MomentumSAM(), fs.ESAM(...) or None, got {sam!r}"
            )
        check_closure_passes(closure_passes)
        self.rho, self.adaptive, self.closure_passes = rho, adaptive, closure_passes

    @property
    def defaults(self) -> dict[str, Any]:
        return {"rho": self.rho}

    @property
    def ascent(self) -> Ascent:  # type: ignore[override]
        return self.sam

    @property
    def states(self) -> tuple[State, ...]:  # type: ignore[override]
        counts = (ROUND,) if self.sam.counts else ()
        return (*((State("sharp_direction"),) if self._looks else ()), *counts)

    def slot_states(self, slot: int) -> tuple[State, ...]:
        return (State(f"sharp_direction_{slot}"),) if self._looks else ()

    @property
    def _looks(self) -> bool:
        return isinstance(self.sam, LookSAM)

    @property
    def decides_on_host(self) -> str | None:  # type: ignore[override]
        return "LookSAM counts on the host which steps take one gradient" if self._looks else None

    def evaluations(self, communicator: Communicator) -> float:
        if isinstance(self.sam, LookSAM):
            return 1 + 1 / self.sam.period
        return 1 if isinstance(self.sam, MomentumSAM) else 2

    def refuses(self, rule: Rule, communicator: Communicator) -> str | None:
        return rule.refuses_ascent(self.sam)

    def passes(self, optimizer: Optimizer) -> int:
        """Number of gradients that the next step takes: 2, or 1 where `sam` saves one.

        Args:
            optimizer: whose step it is.
        """
        if isinstance(self.sam, LookSAM):
            return 1 if int(optimizer.rounds) % self.sam.period else 2
        return 1 if isinstance(self.sam, MomentumSAM) else 2

    def takes_several(self, optimizer: Optimizer) -> bool:
        return self.passes(optimizer) > 1

    def _is_plain(self, optimizer: Optimizer) -> bool:
        """Whether the next step perturbs nothing."""
        return self.passes(optimizer) == 1 and not isinstance(self.sam, MomentumSAM)

    def check_call(self, optimizer: Optimizer, closure: Closure | None, passes: int | None) -> None:
        if passes is not None:
            check_closure_passes(passes)

    def skips_by_itself(self, optimizer: Optimizer) -> bool:
        by_hand = optimizer.perturbed or not self._is_plain(optimizer)
        return by_hand and not optimizer.live.trains

    def go_ahead(self, optimizer: Optimizer) -> bool:
        if isinstance(self.sam, MomentumSAM):
            self._collect(optimizer)
            self._perturb(optimizer, False)
        return isinstance(self.sam, MomentumSAM)

    def bind(self, optimizer: Optimizer) -> None:
        if "saved" in optimizer.made:
            return
        saved = optimizer.rows.layout.allocate(optimizer.agents, optimizer.rows.x.device)
        phase = optimizer.phase
        if phase.home is not None:
            # parameters were moved while they were perturbed
            parts = optimizer.rows.parts(saved)
            for held, part in zip(phase.home_parts, parts, strict=False):
                part.copy_(held)
            phase.home, phase.home_parts = saved, parts
            phase.end = optimizer.model_columns.stop
        optimizer.made["saved"] = saved

    def take(self, optimizer: Optimizer, closure: Closure | None, passes: int | None = None) -> Any:
        customs = self.closure_passes if passes is None else passes
        plain = self._is_plain(optimizer)
        if closure is None:
            if not plain and not optimizer.perturbed:
                raise RuntimeError(f"{optimizer.who} {self._missing}")
            return None
        if optimizer.perturbed:
            return optimizer.evaluate(closure, adds=not self._holds_first_gradient(optimizer))
        loss = None
        if customs == 2 and (plain or self.passes(optimizer) == 2):
            loss = optimizer.evaluate(closure)
        if plain:
            return loss
        self._collect(optimizer)
        # what does not move is not written aside
        aside = isinstance(closure, AtRows) and optimizer.moves_all
        self._perturb(optimizer, zero_grad=customs == 1, aside=aside)
        try:
            second = optimizer.evaluate(closure)
        finally:
            optimizer.rows.at = optimizer.rows.x
        return second if loss is None else loss

    @property
    def _missing(self) -> str:
        """What a step without a closure lacks."""
        if isinstance(self.sam, MomentumSAM):
            return (
                "with MomentumSAM takes its gradient at the perturbed model: "
                "call train() before the gradient is taken, or pass a closure"
            )
        return (
            "needs two gradients a step: pass a closure, "
            "or call perturb() and take the gradient again before step()"
        )

    def _holds_first_gradient(self, optimizer: Optimizer) -> bool:
        """Whether gradients are still those that `perturb()` left."""
        if optimizer.phase.left is None:
            return False
        written, gradient = optimizer.phase.left
        p = with_gradient(optimizer)
        return written == optimizer.rows.written and p is not None and p.grad is gradient

    def found(self, optimizer: Optimizer) -> Found:
        optimizer.collect()
        norm = optimizer.check_gradients(gate=optimizer.phase.norm)
        self._look(optimizer, norm)
        return Found(norm)

    def evaluate(
        self, optimizer: Optimizer, closure: Closure, slot: int = 0
    ) -> tuple[Any, torch.Tensor]:
        phase, loss = optimizer.phase, None
        phase.slot = slot
        plain = self._is_plain(optimizer)
        if plain or self.passes(optimizer) == 2:
            loss = optimizer.evaluate(closure)
        if not plain:
            self._collect(optimizer)
            self._perturb(optimizer, False)
            second = optimizer.evaluate(closure)
            loss = second if loss is None else loss
        with use_backend(optimizer.backend):
            norm = self.found(optimizer).norm
        phase.norm = None
        return loss, norm

    def keep(self, optimizer: Optimizer) -> None:
        for direction, across in optimizer.phase.looked:
            direction.copy_(across)

    def perturb(self, optimizer: Optimizer, zero_grad: bool = False) -> None:
        optimizer.collect()
        skipped = optimizer.skipped.clone()
        self._perturb(optimizer, zero_grad, refuses=False)
        p, phase = with_gradient(optimizer), optimizer.phase
        phase.skipped = skipped
        if not zero_grad:
            phase.left = optimizer.rows.written, None if p is None else p.grad

    def _collect(self, optimizer: Optimizer) -> None:
        """Bring what is ascended along to its buffer."""
        if isinstance(self.sam, MomentumSAM):
            optimizer.follow()
        else:
            optimizer.collect()

    def _perturb(
        self, optimizer: Optimizer, zero_grad: bool, refuses: bool = True, aside: bool = False
    ) -> None:
        """`_move`, as a range for whoever profiles the step."""
        if optimizer.live.stages is None:
            self._move(optimizer, zero_grad, refuses, aside)
            return
        with ranged("perturb"):
            self._move(optimizer, zero_grad, refuses, aside)

    def _move(self, optimizer: Optimizer, zero_grad: bool, refuses: bool, aside: bool) -> None:
        """With gradients in their buffer: move all groups, or raise with nothing moved.

        Aside, parameters stay, and `rows.at` are the perturbed models.
        """
        groups, phase = range(len(optimizer.param_groups)), optimizer.phase
        with use_backend(optimizer.backend):
            direction, norm = self._direction(optimizer, refuses)
            radii = [self._radius(optimizer, index) for index in groups]
            for group in optimizer.param_groups:
                check_group(group, {"maximize": COMMON["maximize"]})
            is_visiting = phase.home is not None
            if aside:
                optimizer.rows.at = optimizer.made["saved"]
            elif not is_visiting:
                saved = optimizer.made["saved"]
                phase.home, phase.end = saved, 0
                phase.home_parts = optimizer.rows.parts(saved)
            for index in groups:
                self._perturb_group(optimizer, index, direction, radii[index], norm, aside)
                if not (is_visiting or aside):
                    phase.end = optimizer.columns(index).stop
            phase.norm = norm
            # the only pass of a step, and a neighbor's model, keep what they are
            rows = optimizer.rows
            rows.second_pass = rows.second_pass or self.passes(optimizer) == 2
            if not aside:
                optimizer.mark_written()
            if zero_grad:
                optimizer.zero_grad()

    def _direction(self, optimizer: Optimizer, refuses: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows `[agents, stride]` to ascend along, and their norms `[agents]`."""
        scale = optimizer.rows.x if self.adaptive else None
        if isinstance(self.sam, MomentumSAM):
            momentum = optimizer.flat_state[optimizer.rule.ascent_state or ""]
            return momentum, self._norm_of(optimizer, momentum, scale)
        norm = optimizer.check_gradients(scale, refuses=refuses)
        g = optimizer.rows.g
        if isinstance(self.sam, LookSAM):
            optimizer.phase.passing["first gradient"] = g.clone()
        if isinstance(self.sam, ESAM) and self.sam.weights < 1:
            masked = self._masked(optimizer, self.sam.weights)
            found = self._norm_of(optimizer, masked, scale)
            return masked, torch.where(norm.isfinite(), found, norm)
        return g, norm

    def _norm_of(
        self, optimizer: Optimizer, rows: torch.Tensor, scale: torch.Tensor | None
    ) -> torch.Tensor:
        """Norms `[agents]` of rows of all groups, scaled elementwise as asked."""
        columns = optimizer.model_columns
        return row_norms(rows[:, columns], None if scale is None else scale[:, columns])

    def _masked(self, optimizer: Optimizer, chance: float) -> torch.Tensor:
        """Gradients with whole tensors left out: 16 bits each, by seed, agent, step and the tensor's number."""
        masked = optimizer.rows.g.clone()
        parts = optimizer.rows.layout.views(masked)[: optimizer.count]
        seed = (optimizer.seed + optimizer.phase.slot * SLOT_STRIDE) % 2**63
        tensors = masked.new_empty(optimizer.agents, round_up(len(parts), BLOCK))
        first = optimizer.communicator.first_agent
        drawn = halves(tensors, seed, optimizer.rounds, first, ASCENT)
        kept = (drawn < chance * 2**BITS).to(masked)
        for k, part in enumerate(parts):
            part.mul_(kept[:, k].reshape(-1, *[1] * (part.dim() - 1)))
        return masked

    def _radius(self, optimizer: Optimizer, index: int) -> torch.Tensor:
        rho = optimizer.scalar(index, "rho")
        return rho / self.sam.weights if isinstance(self.sam, ESAM) else rho

    def _perturb_group(
        self,
        optimizer: Optimizer,
        index: int,
        direction: torch.Tensor,
        rho: torch.Tensor,
        norm: torch.Tensor,
        aside: bool,
    ) -> None:
        part, maximize = (
            optimizer.columns(index),
            bool(optimizer.param_groups[index]["maximize"]),
        )
        # the momentum buffer points downhill already, whichever way that is
        down = isinstance(self.sam, MomentumSAM) or maximize
        if part.stop > part.start:
            buffers = (optimizer.rows.x, direction, optimizer.made["saved"])
            x, g, saved = (rows[:, part] for rows in buffers)
            sam_perturb(x, g, saved, rho, norm, self.adaptive, down, aside)

    def _look(self, optimizer: Optimizer, norm: torch.Tensor) -> None:
        """LookSAM: keep the part of the SAM gradient that is across the first one, or add the one that was kept."""
        if not isinstance(self.sam, LookSAM):
            return
        columns, phase = optimizer.model_columns, optimizer.phase
        name = f"sharp_direction_{phase.slot}" if phase.slot else "sharp_direction"
        g, direction = optimizer.rows.g[:, columns], optimizer.flat_state[name][:, columns]
        if phase.norm is None:
            g.add_(direction * (self.sam.strength * norm)[:, None])
            return
        first = phase.passing["first gradient"][:, columns]
        squared = (first * first).sum(1, keepdim=True)
        along = (first * g).sum(1, keepdim=True) / squared.clamp(min=SMALL)
        across = g - along * first
        across /= row_norms(across)[:, None] + SMALL
        across = torch.where(norm.isfinite()[:, None], across, direction)
        phase.looked.append((direction, across))


def check_closure_passes(passes: int) -> None:
    """Raise ValueError unless `passes` is 1 or 2."""
    if passes not in (1, 2):
        raise ValueError(
            f"closure_passes must be 2 (the closure makes both passes) or 1 (the second), got {passes!r}"
        )
