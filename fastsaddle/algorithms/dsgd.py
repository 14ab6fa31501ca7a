"""Decentralized SGD without and with local momentum."""

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.choco import Choco
from fastsaddle.compressors.base import Compressor
from fastsaddle.graphs.topology import Topology
from fastsaddle.optimizer.decentralized_optimizer import DecentralizedOptimizer


class DSGD(DecentralizedOptimizer):
    """Decentralized SGD: h_i = x_i - lr (g_i + weight_decay x_i), then x_i = sum_j W_ij h_j.

    D-PSGD (Lian et al. 2017, arXiv:1705.09056) in adapt-then-combine order, one model sent to each neighbor a step.

    Args:
        params: what torch.optim takes. With a topology of n agents each parameter is stacked, `[n, ...]`.
        lr: learning rate, a float or a 0-d tensor; read at every step.
        topology: who talks to whom, a `Topology` or a name such as "ring"; None is one agent, plain SGD.
        weight_decay: L2 coefficient, added to the gradient.
        compressor: what messages are compressed with, by CHOCO gossip (see `Choco`); None sends models whole, and so
            does `Identity()`. State with one: `x_hat`, the public copies, and `step`, the rounds done.
        consensus_step: gamma in x = h + gamma (W h - h), in [0, 1]; with a compressor of the pull towards copies.
        nonfinite: "raise" refuses NaN and infinite gradients before anything changes; "skip" leaves such agents'
            local step out, while their models still take part in the mixing.
        maximize: ascend instead of descending.
        backend: "reference", "native" or "triton"; None chooses by device.
        seed: of the random numbers that a compressor and bfloat16 state draw, in [0, 2^63).
        state_dtype: torch.float32, or torch.bfloat16 for momentum and public copies: 2 bytes less for each number of
            theirs. Steps compute in float32 all the same, and round what they keep stochastically, so without bias
            (see kernels/_shared/bfloat16); a reconstruction. Such state counts `step`, the rounds done, as the draws go
            by it; float32 values that are loaded are rounded to the nearest. Public copies need a
            `StochasticQuantizer` whose step is one kernel; DSGD and DSADDLe keep nothing else.

    A parameter that got no gradient counts as one with a zero gradient: it decays and is mixed. Parameters and
    gradients become views of flat buffers, and are followed where they are moved (`.to()`, an assigned `.data`);
    Parameters replaced by others (`load_state_dict(assign=True)`) need a new optimizer, as everywhere in torch.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for
            the topology, a mixing matrix that is not symmetric, a compressor whose public copies cannot be bfloat16.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Topology | str | None = None,
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
            {"lr": lr, "weight_decay": weight_decay, "maximize": maximize},
            topology=topology,
            compressor=compressor,
            consensus_step=consensus_step,
            nonfinite=nonfinite,
            backend=backend,
            seed=seed,
            state_dtype=state_dtype,
        )


class DSGDm(DecentralizedOptimizer):
    """DSGD with local momentum: m_i = momentum m_i + g_i, heavy ball u = m_i or Nesterov u = g_i + momentum m_i.

    The buffer starts at zero and is in gradient units: a change of lr leaves it as it is. State: `momentum_buffer`. The
    momentum is each agent's own; only models travel.

    Args:
        momentum: beta, in [0, 1).
        nesterov: use Nesterov's form, as in torch.optim.SGD.

    Other arguments and errors: as in `DSGD`.
    """

    kind = 1
    state_name = "momentum_buffer"

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Topology | str | None = None,
        momentum: float = 0.9,
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
