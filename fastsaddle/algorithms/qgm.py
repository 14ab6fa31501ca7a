"""Decentralized SGD with quasi-global momentum."""

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.choco import Choco
from fastsaddle.compressors.base import Compressor
from fastsaddle.graphs.topology import Topology
from fastsaddle.optimizer.decentralized_optimizer import DecentralizedOptimizer


class QGM(DecentralizedOptimizer):
    """QG-DSGDm: momentum is built from what local step and gossip together moved, so it leans to the global direction.

        m   = beta mh_i + g_i                     not kept
        h_i = x_i - lr (m, or g_i + beta m with Nesterov)
        x'_i = sum_j W_ij h_j
        mh_i = mu mh_i + (1 - mu) (x_i - x'_i) / lr

    Lin et al. 2021 (arXiv:2102.04761), algorithm 1 and the authors' code. The displacement is divided by the rate that
    made it, so `mh` stays in gradient units when lr changes; at lr = 0 gossip happens and `mh` is left unchanged. Only
    models travel. State: `quasi_global`.

    Args:
        momentum: beta, in [0, 1).
        qg_momentum: mu, in [0, 1); None means beta.
        nesterov: use Nesterov's form.

    Other arguments and errors: as in `DSGD`.
    """

    kind = 2
    state_name = "quasi_global"

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Topology | str | None = None,
        momentum: float = 0.9,
        qg_momentum: float | None = None,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        compressor: Compressor | Choco | None = None,
        consensus_step: float = 1.0,
        nonfinite: str = "raise",
        maximize: bool = False,
        backend: str | None = None,
        seed: int = 0,
        state_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "qg_momentum": qg_momentum,
                "nesterov": nesterov,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            topology=topology,
            compressor=compressor,
            consensus_step=consensus_step,
            nonfinite=nonfinite,
            backend=backend,
            seed=seed,
            state_dtype=state_dtype,
        )
