"""N-SADDLe: NGM with sharpness-aware gradients."""

from typing import Any, ClassVar, Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.choco import Choco
from fastsaddle.compressors.base import Compressor
from fastsaddle.gradients.ascents import SAM
from fastsaddle.gradients.cross import CrossGradients, Rounds
from fastsaddle.gradients.perturbation import PerturbingOptimizer
from fastsaddle.graphs.topology import Topology
from fastsaddle.optimizer.stacked_optimizer import Closure


class NSADDLe(CrossGradients, PerturbingOptimizer):
    """NGM whose gradients are SAM gradients: grad F_j(y + rho g / ||g||) with g = grad F_j(y), for each model y.

    Choudhary et al. 2024 (arXiv:2405.13961). A reconstruction: the paper's own box could not be read, and whether
    cross-gradients are perturbed with their own norms is an open point; they are here, and `perturb="self"` perturbs
    the self-gradient alone. The closure is called 2 (degree + 1) times, or degree + 2. Comp N-SADDLe, with a
    compressor, is a reconstruction too, as in `NGM`.

    Args:
        rho: perturbation radius, >= 0; the default 0.05 is SAM's.
        adaptive: adaptive SAM, as in `DSADDLe`.
        perturb: "all" gradients, or "self".
        sam: a cheaper way to the SAM gradient, `fs.LookSAM(...)`, `fs.MomentumSAM()` (along the momentum of the agent
            that takes the gradient) or `fs.ESAM(...)`.

    Other arguments, state and errors: as in `NGM`; with LookSAM also `sharp_direction`, `sharp_direction_1`, ...
    """

    kept: ClassVar[tuple[str, ...]] = (
        *CrossGradients.kept,
        *PerturbingOptimizer.kept,
        "perturb",
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Topology | str | None = None,
        cross_gradients: Literal["data", "model"] = "data",
        rho: float = 0.05,
        momentum: float = 0.9,
        qg_momentum: float | None = None,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        mixed_self_gradient: bool = False,
        adaptive: bool = False,
        perturb: Literal["all", "self"] = "all",
        sam: SAM | None = None,
        compressor: Compressor | Choco | None = None,
        consensus_step: float = 1.0,
        nonfinite: str = "raise",
        maximize: bool = False,
        backend: str | None = None,
        seed: int = 0,
    ) -> None:
        if perturb not in ("all", "self"):
            raise ValueError(f'perturb must be "all" or "self", got {perturb!r}')
        self.perturb = perturb
        super().__init__(
            params,
            {
                "lr": lr,
                "rho": rho,
                "momentum": momentum,
                "qg_momentum": qg_momentum,
                "nesterov": nesterov,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            cross_gradients=cross_gradients,
            mixed_self_gradient=mixed_self_gradient,
            topology=topology,
            compressor=compressor,
            consensus_step=consensus_step,
            nonfinite=nonfinite,
            backend=backend,
            seed=seed,
            adaptive=adaptive,
            sam=sam,
        )

    @property
    def state_names(self) -> tuple[str, ...]:
        slots = range(1, self.evaluations) if self._looks and self.perturb == "all" else ()
        return (*super().state_names, *(f"sharp_direction_{slot}" for slot in slots))

    @property
    def _sharp_direction(self) -> torch.Tensor:
        name = f"sharp_direction_{self._slot}" if self._slot else "sharp_direction"
        return self.flat_state[name]

    def _gradient(self, closure: Closure, slot: int) -> tuple[Any, torch.Tensor]:
        if slot and self.perturb == "self":
            return super()._gradient(closure, slot)
        self._slot, loss = slot, None
        if slot == 0:
            self._looked = []
        try:
            if self.passes == 2 or self._is_plain:
                loss, _ = super()._gradient(closure, slot)
            if not self._is_plain:
                self._perturb()
                with torch.enable_grad():
                    second = closure()
                loss = second if loss is None else loss
            self._prepare()
            norm = self._check_gradients(gate=self._first_norm)
            self._look(norm)
        finally:
            self._settle()
        return loss, norm

    def _commit(self, own: torch.Tensor, mixed: torch.Tensor, rounds: Rounds) -> None:
        super()._commit(own, mixed, rounds)
        self._keep_looks()
