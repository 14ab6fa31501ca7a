"""Decentralized SGD with quasi-global momentum."""

from typing import Any, Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.choco import Choco
from fastsaddle.comm.gossip import Gossip
from fastsaddle.compressors.base import Compressor
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.ranks.placement import Placement
from fastsaddle.rules.momentum import Momentum


class QGM(Optimizer):
    """QG-DSGDm: momentum is built from what local step and gossip together moved, so it leans to the global direction.

        m   = beta mh_i + g_i                     not kept
        h_i = x_i - lr (m, or g_i + beta m with Nesterov)
        x'_i = sum_j W_ij h_j
        mh_i = mu mh_i + (1 - mu) (x_i - x'_i) / lr

    Lin et al. 2021 (arXiv:2102.04761), algorithm 1 and the authors' code. The displacement is divided by the rate that
    made it, so `mh` stays in gradient units when lr changes; at lr = 0 gossip happens and `mh` is left unchanged. Only
    models travel. State: `quasi_global`.

    Args:
        params: what torch.optim takes. With a topology of n agents each parameter is stacked, `[n, ...]` float32.
        lr: learning rate, >= 0, a float or a tensor, 0-d or `[agents]`; read at every step.
        topology: who talks to whom, an `fs.Topology`, an `fs.Schedule` of graphs that change, or a name such as "ring";
            None is one agent on ordinary parameters.
        momentum: beta, in [0, 1).
        qg_momentum: mu, in [0, 1); None means beta.
        nesterov: use Nesterov's form, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        compressor: what messages are compressed with, an `fs.compressors.Compressor`, by CHOCO gossip, or an `fs.Choco`
            for its other forms; None sends models whole, and so does `Identity()`. State with one: `x_hat`, the public
            copies, and `step`, the rounds done.
        consensus_step: gamma in x = h + gamma (W h - h), in [0, 1]; with a compressor of the pull towards copies.
        push_sum: mix x = w z and weights w by a column-stochastic W, z = x / w being the models. EXPERIMENTAL and ours:
            the buffer takes w' (z - z') / lr, see docs/graphs.md. State: `push_weight`, w. Without a compressor.
        nonfinite: "raise" refuses NaN and infinite gradients before anything changes; "skip" leaves such agents' local
            step out, while their models still take part in the mixing.
        maximize: ascend instead of descending.
        backend: "reference", "native" or "triton"; None chooses by device.
        seed: of the random numbers that a compressor and bfloat16 state draw, in [0, 2^63).
        state_dtype: torch.float32, or torch.bfloat16 for momentum and public copies, rounded stochastically; see
            `fs.Optimizer`.
        placement: who holds which agents, `fs.place(agents)`, where they are spread over processes; parameters are
            those of the agents here. None: all are here.
        process_group: short for `fs.place(process_group=...)`: one agent a rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for the
            topology, graphs that are not doubly stochastic, a compressor whose public copies cannot be bfloat16.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Schedule | str | None = None,
        momentum: float | torch.Tensor = 0.9,
        qg_momentum: float | torch.Tensor | None = None,
        nesterov: bool = False,
        weight_decay: float | torch.Tensor = 0.0,
        compressor: Compressor | Choco | None = None,
        consensus_step: float = 1.0,
        push_sum: bool = False,
        nonfinite: Literal["raise", "skip"] = "raise",
        maximize: bool = False,
        backend: str | None = None,
        seed: int = 0,
        state_dtype: torch.dtype = torch.float32,
        placement: Placement | None = None,
        process_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=Momentum("quasi-global", momentum, qg_momentum, nesterov),
            communicator=Gossip(topology, compressor, consensus_step, push_sum=push_sum),
            weight_decay=weight_decay,
            nonfinite=nonfinite,
            maximize=maximize,
            backend=backend,
            seed=seed,
            state_dtype=state_dtype,
            placement=placement,
            process_group=process_group,
        )
