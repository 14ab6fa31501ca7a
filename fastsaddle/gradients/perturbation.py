"""Models moved to where the SAM gradient is taken, and back: what all sharpness-aware methods share."""

from typing import Any, ClassVar

import numpy as np
import torch

from fastsaddle.compressors._wire import row_norms
from fastsaddle.gradients.ascents import ESAM, SAM, LookSAM, MomentumSAM
from fastsaddle.kernels.op import use_backend
from fastsaddle.kernels.sam_perturb import sam_perturb
from fastsaddle.optimizer.decentralized_optimizer import DecentralizedOptimizer

# keeps a row of zeros from being divided by zero
SMALL = 1e-12


class PerturbingOptimizer(DecentralizedOptimizer):
    """Moves every agent's model to x + rho g / ||g|| and back, in the way that `sam` says.

    Attributes:
        sam: one of `fastsaddle.gradients.ascents`.
        adaptive: perturb by rho x^2 g / || |x| g || instead (ASAM).
    """

    kept: ClassVar[tuple[str, ...]] = (*DecentralizedOptimizer.kept, "adaptive", "sam")
    # norms of the rows ascended along, while parameters are perturbed; copies are made in between
    _first_norm: torch.Tensor | None = None
    # groups whose saved copy holds the model to return to
    _moved = 0

    def __init__(self, *args: Any, adaptive: bool, sam: SAM | None, **kwargs: Any) -> None:
        self.sam = SAM() if sam is None else sam
        if not isinstance(self.sam, SAM):
            raise ValueError(
                f"sam must be one of fastsaddle.gradients.ascents's, or None, got {sam!r}"
            )
        if isinstance(self.sam, MomentumSAM) and self.kind == 0:
            raise ValueError(
                f"MomentumSAM needs a momentum buffer, {type(self).__name__} has none: QSADDLe does"
            )
        self.adaptive = adaptive
        self.counts_rounds = isinstance(self.sam, (LookSAM, ESAM))
        super().__init__(*args, **kwargs)

    @property
    def perturbed(self) -> bool:
        """Whether the parameters are at the perturbed model now."""
        return self._first_norm is not None

    @property
    def passes(self) -> int:
        """Gradients that the next step takes: 2, or 1 where `sam` saves one."""
        looks = isinstance(self.sam, LookSAM) and int(self.rounds) % self.sam.period
        return 1 if looks or isinstance(self.sam, MomentumSAM) else 2

    @property
    def decides_on_host(self) -> str | None:
        if self._looks:
            return "LookSAM counts on the host which steps take one gradient"
        if isinstance(self.sam, ESAM):
            return "ESAM draws on the host which weights are perturbed"
        return super().decides_on_host

    @property
    def _looks(self) -> bool:
        return isinstance(self.sam, LookSAM)

    @property
    def _is_plain(self) -> bool:
        """Whether the next step perturbs nothing."""
        return self.passes == 1 and not isinstance(self.sam, MomentumSAM)

    @property
    def state_names(self) -> tuple[str, ...]:
        looks = ("sharp_direction",) if self._looks else ()
        return (*super().state_names, *looks)

    def _bind(self) -> None:
        super()._bind()
        self._looked: list[tuple[torch.Tensor, torch.Tensor]] = []
        before: list[torch.Tensor] = getattr(self, "_saved_parts", [])
        self._saved = self.rows.layout.allocate(self.agents, self.rows.x.device)
        self._saved_parts = self.rows.parts(self._saved)[: self._count()]
        if self.perturbed:
            for held, part in zip(before, self._saved_parts, strict=True):
                part.copy_(held)

    @torch.no_grad()
    def _perturb(self, zero_grad: bool = False) -> None:
        """With gradients in their buffer: move, or raise with nothing moved."""
        with use_backend(self.backend):
            groups = range(len(self.param_groups))
            direction, norm = self._direction()
            radii = [self._radius(index) for index in groups]
            self._first_norm, self._moved = norm, 0
            try:
                for index in groups:
                    # counted first: Ctrl-C during a kernel is noticed when it has returned
                    self._moved = index + 1
                    self._perturb_group(index, direction, radii[index], norm)
                # the only pass of a step, and a neighbor's model, keep what they are
                self.rows.second_pass = self.rows.second_pass or self.passes == 2
                if zero_grad:
                    self.zero_grad()
            except BaseException:
                self.restore()
                raise

    def _direction(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows `[agents, stride]` to ascend along, and their norms `[agents]`."""
        scale = self.rows.x if self.adaptive else None
        if isinstance(self.sam, MomentumSAM):
            momentum = self.flat_state[self.state_name or ""]
            return momentum, self._norm_of(momentum, scale)
        norm = self._check_gradients(scale)
        if isinstance(self.sam, LookSAM):
            self._first_gradient = self.rows.g.clone()
        if isinstance(self.sam, ESAM) and self.sam.weights < 1:
            masked = self._masked(self.sam.weights)
            return masked, torch.where(norm.isfinite(), self._norm_of(masked, scale), norm)
        return self.rows.g, norm

    def _norm_of(self, rows: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """Norms `[agents]` of rows of all groups, scaled elementwise as asked."""
        columns = self._first_columns(len(self.param_groups))
        return row_norms(rows[:, columns], None if scale is None else scale[:, columns])

    def _masked(self, chance: float) -> torch.Tensor:
        """Gradients with whole tensors left out, drawn by seed and step."""
        masked = self.rows.g.clone()
        parts = self.rows.layout.views(masked)[: self._count()]
        draw = np.random.default_rng([self.seed, int(self.rounds), self._slot])
        kept = torch.from_numpy(draw.random((self.agents, len(parts))) < chance).to(masked)
        for k, part in enumerate(parts):
            part.mul_(kept[:, k].reshape(-1, *[1] * (part.dim() - 1)))
        return masked

    # which of a step's several evaluations this is
    _slot = 0

    def _radius(self, index: int) -> torch.Tensor:
        rho = self._scalar(index, "rho")
        return rho / self.sam.weights if isinstance(self.sam, ESAM) else rho

    def _perturb_group(
        self, index: int, direction: torch.Tensor, rho: torch.Tensor, norm: torch.Tensor
    ) -> None:
        part, maximize = self._columns(index), bool(self.param_groups[index]["maximize"])
        # the momentum buffer points downhill already, whichever way that is
        down = isinstance(self.sam, MomentumSAM) or maximize
        if part.stop > part.start:
            x, g, saved = (rows[:, part] for rows in (self.rows.x, direction, self._saved))
            sam_perturb(x, g, saved, rho, norm, self.adaptive, down)

    @torch.no_grad()
    def restore(self) -> None:
        """Undo a perturbation exactly, for evaluation or a skipped step; does nothing where there is none."""
        if self.perturbed:
            self._follow()
            columns = self._first_columns(self._moved)
            self.rows.x[:, columns].copy_(self._saved[:, columns])
            self._settle()

    def _settle(self) -> None:
        self._first_norm = None
        self.rows.second_pass = False

    def _look(self, norm: torch.Tensor) -> None:
        """LookSAM: keep the part of the SAM gradient that is across the first one, or add the one that was kept."""
        if not isinstance(self.sam, LookSAM):
            return
        columns = self._first_columns(len(self.param_groups))
        g, direction = self.rows.g[:, columns], self._sharp_direction[:, columns]
        if not self.perturbed:
            g.add_(direction * (self.sam.strength * norm)[:, None])
            return
        first = self._first_gradient[:, columns]
        squared = (first * first).sum(1, keepdim=True)
        along = (first * g).sum(1, keepdim=True) / squared.clamp(min=SMALL)
        across = g - along * first
        across /= row_norms(across)[:, None] + SMALL
        across = torch.where(norm.isfinite()[:, None], across, direction)
        self._looked.append((direction, across))

    def _keep_looks(self) -> None:
        """Make the directions found in this step the state, once nothing can fail any more."""
        for direction, found in self._looked:
            direction.copy_(found)
        self._looked = []

    @property
    def _sharp_direction(self) -> torch.Tensor:
        return self.flat_state["sharp_direction"]
