"""Decentralized SGD without and with local momentum."""

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


class DSGD(Optimizer):
    """Decentralized SGD: h_i = x_i - lr (g_i + weight_decay x_i), then x_i = sum_j W_ij h_j.

    D-PSGD (Lian et al. 2017, arXiv:1705.09056) in adapt-then-combine order, one model sent to each neighbor a step.

    Args:
        params: what torch.optim takes. With a topology of n agents each parameter is stacked, `[n, ...]` float32.
        lr: learning rate, >= 0, a float or a tensor, 0-d or `[agents]`; read at every step.
        topology: who talks to whom, an `fs.Topology`, an `fs.Schedule` of graphs that change, or a name such as "ring";
            None is one agent on ordinary parameters.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        compressor: what messages are compressed with, an `fs.compressors.Compressor`, by CHOCO gossip, or an `fs.Choco`
            for its other forms; None sends models whole, and so does `Identity()`. State with one: `x_hat`, the public
            copies, and `step`, the rounds done.
        consensus_step: gamma in x = h + gamma (W h - h), in [0, 1]; with a compressor of the pull towards copies.
        push_sum: mix x = w z and weights w by a column-stochastic W, z = x / w being the models (Assran et al. 2019,
            arXiv:1811.10792). State: `push_weight`, w. Without a compressor.
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


class DSGDm(Optimizer):
    """DSGD with local momentum: m_i = momentum m_i + g_i, heavy ball u = m_i or Nesterov u = g_i + momentum m_i.

    The buffer starts at zero and is in gradient units: a change of lr leaves it as it is. The momentum is each agent's
    own; only models travel. State: `momentum_buffer`.

    Args:
        params: what torch.optim takes. With a topology of n agents each parameter is stacked, `[n, ...]` float32.
        lr: learning rate, >= 0, a float or a tensor, 0-d or `[agents]`; read at every step.
        topology: who talks to whom, an `fs.Topology`, an `fs.Schedule` of graphs that change, or a name such as "ring";
            None is one agent on ordinary parameters.
        momentum: beta, in [0, 1).
        nesterov: use Nesterov's form, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        compressor: what messages are compressed with, an `fs.compressors.Compressor`, by CHOCO gossip, or an `fs.Choco`
            for its other forms; None sends models whole, and so does `Identity()`. State with one: `x_hat`, the public
            copies, and `step`, the rounds done.
        consensus_step: gamma in x = h + gamma (W h - h), in [0, 1]; with a compressor of the pull towards copies.
        push_sum: mix x = w z and weights w by a column-stochastic W, z = x / w being the models (Assran et al. 2019,
            arXiv:1811.10792). State: `push_weight`, w. Without a compressor.
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
            rule=Momentum("local", momentum, nesterov=nesterov),
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
