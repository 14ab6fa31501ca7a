"""SADDLe: sharpness-aware decentralized learning, on D-PSGD and on quasi-global momentum.

Choudhary et al. 2024 (arXiv:2405.13961). Both are reconstructions: the paper's own algorithms could not be read,
so the SAM gradient (Foret et al. 2020, arXiv:2010.01412) takes the place of the gradient in D-PSGD and QGM, one norm
over each agent's whole model, weight decay in the step only.
"""

from typing import Any, Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.choco import Choco
from fastsaddle.comm.gossip import Gossip
from fastsaddle.compressors.base import Compressor
from fastsaddle.gradients.ascents import Ascent
from fastsaddle.gradients.sam import SAM
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.ranks.placement import Placement
from fastsaddle.rules.momentum import Momentum


class DSADDLe(Optimizer):
    """D-SADDLe: D-PSGD with SAM gradients.

        gs_i = grad F_i(x_i + rho g_i / ||g_i||)   on the same batch as g_i = grad F_i(x_i)
        x_i  = sum_j W_ij (x_j - lr (gs_j + weight_decay x_j))

    Choudhary et al. 2024 (arXiv:2405.13961); a reconstruction, as the paper's own algorithm could not be read. With
    `topology=None` it is SAM with plain SGD on an ordinary module. For ways to call `step` see `fs.gradients.SAM`.

    Args:
        params: what torch.optim takes. With a topology of n agents each parameter is stacked, `[n, ...]` float32.
        lr: learning rate, >= 0, a float or a tensor, 0-d or `[agents]`; read at every step.
        topology: who talks to whom, an `fs.Topology`, an `fs.Schedule` of graphs that change, or a name such as "ring";
            None is one agent on ordinary parameters.
        rho: perturbation radius, >= 0; the default 0.05 is SAM's.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        adaptive: perturb by rho x^2 g / || |x| g || instead (ASAM, Kwon et al. 2021, arXiv:2102.11600, without its
            constant); suitable rho is then about ten times larger.
        sam: a cheaper way to the SAM gradient, `fs.LookSAM(...)` or `fs.ESAM(...)`; None takes both passes.
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
        seed: of the random numbers that a compressor, ESAM and bfloat16 state draw, in [0, 2^63).
        state_dtype: torch.float32, or torch.bfloat16 for momentum and public copies, rounded stochastically; see
            `fs.Optimizer`.
        closure_passes: what a closure given to `step` does, 2 (both passes) or 1 (the second); see `fs.gradients.SAM`.
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
        rho: float | torch.Tensor = 0.05,
        weight_decay: float | torch.Tensor = 0.0,
        adaptive: bool = False,
        sam: Ascent | None = None,
        compressor: Compressor | Choco | None = None,
        consensus_step: float = 1.0,
        push_sum: bool = False,
        nonfinite: Literal["raise", "skip"] = "raise",
        maximize: bool = False,
        backend: str | None = None,
        seed: int = 0,
        state_dtype: torch.dtype = torch.float32,
        closure_passes: Literal[1, 2] = 2,
        placement: Placement | None = None,
        process_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            gradient=SAM(rho, adaptive, sam, closure_passes),
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


class QSADDLe(Optimizer):
    """Q-SADDLe: quasi-global momentum with SAM gradients; nothing but models travels.

        gs_i = grad F_i(x_i + rho g_i / ||g_i||)   on the same batch as g_i = grad F_i(x_i)
        m    = beta mh_i + gs_i + weight_decay x_i
        h_i  = x_i - lr (m, or the gradient + beta m with Nesterov)
        x'_i = sum_j W_ij h_j
        mh_i = mu mh_i + (1 - mu) (x_i - x'_i) / lr

    Choudhary et al. 2024 (arXiv:2405.13961) on Lin et al. 2021 (arXiv:2102.04761); a reconstruction, as the paper's own
    algorithm could not be read. At lr = 0 gossip happens and the quasi-global buffer is left unchanged. For ways to
    call `step` see `fs.gradients.SAM`. State: `quasi_global`.

    Args:
        params: what torch.optim takes. With a topology of n agents each parameter is stacked, `[n, ...]` float32.
        lr: learning rate, >= 0, a float or a tensor, 0-d or `[agents]`; read at every step.
        topology: who talks to whom, an `fs.Topology`, an `fs.Schedule` of graphs that change, or a name such as "ring";
            None is one agent on ordinary parameters.
        rho: perturbation radius, >= 0; the default 0.05 is SAM's.
        momentum: beta, in [0, 1).
        qg_momentum: mu, in [0, 1); None means beta.
        nesterov: use Nesterov's form, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        adaptive: perturb by rho x^2 g / || |x| g || instead (ASAM, Kwon et al. 2021, arXiv:2102.11600, without its
            constant); suitable rho is then about ten times larger.
        sam: a cheaper way to the SAM gradient, `fs.LookSAM(...)`, `fs.MomentumSAM()` (along the momentum buffer, which
            is then float32) or `fs.ESAM(...)`; None takes both passes.
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
        seed: of the random numbers that a compressor, ESAM and bfloat16 state draw, in [0, 2^63).
        state_dtype: torch.float32, or torch.bfloat16 for momentum and public copies, rounded stochastically; see
            `fs.Optimizer`.
        closure_passes: what a closure given to `step` does, 2 (both passes) or 1 (the second); see `fs.gradients.SAM`.
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
        rho: float | torch.Tensor = 0.05,
        momentum: float | torch.Tensor = 0.9,
        qg_momentum: float | torch.Tensor | None = None,
        nesterov: bool = False,
        weight_decay: float | torch.Tensor = 0.0,
        adaptive: bool = False,
        sam: Ascent | None = None,
        compressor: Compressor | Choco | None = None,
        consensus_step: float = 1.0,
        push_sum: bool = False,
        nonfinite: Literal["raise", "skip"] = "raise",
        maximize: bool = False,
        backend: str | None = None,
        seed: int = 0,
        state_dtype: torch.dtype = torch.float32,
        closure_passes: Literal[1, 2] = 2,
        placement: Placement | None = None,
        process_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            gradient=SAM(rho, adaptive, sam, closure_passes),
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
