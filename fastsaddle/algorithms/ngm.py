"""NGM: neighborhood gradient mean, gradients that agents take for each other."""

from typing import Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.choco import Choco
from fastsaddle.compressors.base import Compressor
from fastsaddle.gradients.cross import CrossGradients
from fastsaddle.graphs.topology import Topology


class NGM(CrossGradients):
    """Each agent steps along the mean of its own gradient and of cross-gradients, and mixes models.

        data:   G_i = W_ii grad F_i(x_i) + sum_j W_ij grad F_j(x_i)       taken by the neighbors, on their batches
        model:  G_i = W_ii grad F_i(x_i) + sum_j W_ij grad F_i(x_j)       at the neighbors' models, on the own batch
        x_i = x_i + gamma (sum_j W_ij x_j - x_i) - lr u(G_i + weight_decay x_i)

    Aketi, Kodge and Roy 2022 (arXiv:2209.14390), where it was first called NGC; all gradients of a step are taken at
    the same models, as in the paper. Their code weighs by 1 / (degree + 1), which is W on a regular graph. Models are
    sent to the neighbors, and with "data" each cross-gradient is sent back: 2 rows to each neighbor a step, or 1. The
    closure is called degree + 1 times (the largest degree); it must zero gradients, evaluate and back-propagate.

    With a compressor (Comp NGM, a reconstruction) models travel by CHOCO gossip, cross-gradients are taken at public
    copies and sent with error feedback, one memory for each neighbor. Their code compresses the self-gradient as well,
    which is not sent; here it stays exact.

    Args:
        cross_gradients: "data" or "model".
        momentum: beta, in [0, 1).
        qg_momentum: None keeps local momentum u; a number mu makes it quasi-global (as in `QGM`), from the
            displacement of x in a whole step.
        nesterov: use Nesterov's form.
        mixed_self_gradient: take the self-gradient, and weight decay, at the mixed model instead, as their code does.
        consensus_step: gamma in [0, 1]; their code takes 0.1 with "data".

    State: `momentum_buffer` or `quasi_global`; see `CrossGradients` for a compressor's. Other arguments and errors: as
    in `DSGD`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Topology | str | None = None,
        cross_gradients: Literal["data", "model"] = "data",
        momentum: float = 0.9,
        qg_momentum: float | None = None,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        mixed_self_gradient: bool = False,
        compressor: Compressor | Choco | None = None,
        consensus_step: float = 1.0,
        nonfinite: str = "raise",
        maximize: bool = False,
        backend: str | None = None,
        seed: int = 0,
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
            cross_gradients=cross_gradients,
            mixed_self_gradient=mixed_self_gradient,
            topology=topology,
            compressor=compressor,
            consensus_step=consensus_step,
            nonfinite=nonfinite,
            backend=backend,
            seed=seed,
        )
