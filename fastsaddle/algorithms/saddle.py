"""SADDLe: sharpness-aware decentralized learning, on D-PSGD and on quasi-global momentum.

Choudhary et al. 2024 (arXiv:2405.13961). Both boxes are reconstructions: the paper's own algorithm boxes could not be
read, so the SAM gradient (Foret et al. 2020, arXiv:2010.01412) takes the place of the gradient in D-PSGD and QGM, one
norm over each agent's whole model, weight decay in the step only.
"""

from typing import Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.algorithms.base import SharpnessAwareOptimizer
from fastsaddle.comm.choco import Choco
from fastsaddle.compressors.base import Compressor
from fastsaddle.gradients.ascents import SAM, MomentumSAM
from fastsaddle.graphs.topology import Topology


class DSADDLe(SharpnessAwareOptimizer):
    """D-SADDLe: D-PSGD with SAM gradients.

        gs_i = grad F_i(x_i + rho g_i / ||g_i||)   on the same batch as g_i = grad F_i(x_i)
        x_i  = sum_j W_ij (x_j - lr (gs_j + weight_decay x_j))

    With `topology=None` it is SAM with plain SGD on an ordinary module.

    Args:
        rho: perturbation radius, >= 0; the default 0.05 is SAM's.
        adaptive: perturb by rho x^2 g / || |x| g || instead (ASAM, Kwon et al. 2021, arXiv:2102.11600, without its
            constant); suitable rho is then about ten times larger.
        sam: a cheaper way to the SAM gradient, `fs.LookSAM(...)` or `fs.ESAM(...)`; None takes both passes.
        closure_passes: what a closure given to `step` does; see `SharpnessAwareOptimizer`.

    Other arguments and errors: as in `DSGD`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Topology | str | None = None,
        rho: float = 0.05,
        weight_decay: float = 0.0,
        adaptive: bool = False,
        sam: SAM | None = None,
        compressor: Compressor | Choco | None = None,
        consensus_step: float = 1.0,
        nonfinite: str = "raise",
        maximize: bool = False,
        backend: str | None = None,
        seed: int = 0,
        state_dtype: torch.dtype = torch.float32,
        closure_passes: Literal[1, 2] = 2,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "rho": rho, "weight_decay": weight_decay, "maximize": maximize},
            topology=topology,
            adaptive=adaptive,
            sam=sam,
            compressor=compressor,
            consensus_step=consensus_step,
            nonfinite=nonfinite,
            backend=backend,
            seed=seed,
            state_dtype=state_dtype,
            closure_passes=closure_passes,
        )


class QSADDLe(SharpnessAwareOptimizer):
    """Q-SADDLe: quasi-global momentum with SAM gradients; nothing but models travels.

        gs_i = grad F_i(x_i + rho g_i / ||g_i||)
        m    = beta mh_i + gs_i + weight_decay x_i
        h_i  = x_i - lr (m, or the gradient + beta m with Nesterov)
        x'_i = sum_j W_ij h_j
        mh_i = mu mh_i + (1 - mu) (x_i - x'_i) / lr

    At lr = 0 gossip happens and the quasi-global buffer is left unchanged. State: `quasi_global`.

    Args:
        rho: perturbation radius, >= 0; the default 0.05 is SAM's.
        momentum: beta, in [0, 1).
        qg_momentum: mu, in [0, 1); None means beta.
        nesterov: use Nesterov's form.
        adaptive: adaptive SAM, as in `DSADDLe`.
        sam: a cheaper way to the SAM gradient, `fs.LookSAM(...)`, `fs.MomentumSAM()` or `fs.ESAM(...)`.
        closure_passes: what a closure given to `step` does; see `SharpnessAwareOptimizer`.

    Other arguments and errors: as in `DSGD`; MomentumSAM ascends along the buffer and needs it as float32.
    """

    kind = 2
    state_name = "quasi_global"

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Topology | str | None = None,
        rho: float = 0.05,
        momentum: float = 0.9,
        qg_momentum: float | None = None,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        adaptive: bool = False,
        sam: SAM | None = None,
        compressor: Compressor | Choco | None = None,
        consensus_step: float = 1.0,
        nonfinite: str = "raise",
        maximize: bool = False,
        backend: str | None = None,
        seed: int = 0,
        state_dtype: torch.dtype = torch.float32,
        closure_passes: Literal[1, 2] = 2,
    ) -> None:
        if isinstance(sam, MomentumSAM) and state_dtype != torch.float32:
            raise ValueError(
                f"MomentumSAM needs state_dtype torch.float32 to ascend along the momentum, got {state_dtype}"
            )
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
            topology=topology,
            adaptive=adaptive,
            sam=sam,
            compressor=compressor,
            consensus_step=consensus_step,
            nonfinite=nonfinite,
            backend=backend,
            seed=seed,
            state_dtype=state_dtype,
            closure_passes=closure_passes,
        )
