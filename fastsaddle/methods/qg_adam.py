"""Adam whose second moment, or both moments, follow what local step and gossip together moved."""

from typing import Any, Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.choco import Choco
from fastsaddle.comm.gossip import Gossip
from fastsaddle.compressors.base import Compressor
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.ranks.placement import Placement
from fastsaddle.rules import qg_adam


class QGAdam(Optimizer):
    """QG-Adam: Adam whose second moment, or both moments, follow how step and gossip moved the model.

        m    = beta1 m_i + (1 - beta1) g_i           or, "both": beta1 m_i + g_i, not kept
        v    = beta2 v_i + (1 - beta2) g_i^2         not kept
        h_i  = x_i - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
        x'_i = sum_j W_ij h_j
        D_i  = (x_i - x'_i) / (||x_i - x'_i|| + 1e-8)          one norm over the whole model
        v_i  = beta2 v_i + (1 - beta2) D_i^2;   m_i = m, or "both": beta1 m_i + (1 - beta1) D_i

    Lin et al. 2021 (arXiv:2102.04761) and the authors' code, whose default differs from the paper's description: only
    its second moment is quasi-global. One model is sent to each neighbor a step. State: `exp_avg` ("second") or
    `quasi_global` ("both"), `quasi_global_sq`, and `step`.

    Args:
        params: parameters or groups of them, as for torch.optim. With a topology of n agents each is
            `[n, ...]` float32, stacked as those of `fs.AgentStack` are.
        lr: learning rate, >= 0: a float, or a tensor, 0-d or `[agents]`. It is read at every step.
        topology: who talks to whom: an `fs.Topology`, an `fs.Schedule` of graphs that change, or a name such as "ring",
            see `fs.topology.parse`. None is a single agent with ordinary parameters.
        betas: beta1 and beta2, both in [0, 1).
        eps: added to the root of the second moment, >= 0.
        quasi_global: which moments are quasi-global: "second" or "both".
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        compressor: compresses messages: an `fs.compressors.Compressor` or an `fs.Choco`; None sends whole rows. Each
            row that is sent has its own public copy: state `x_hat`, `step`. How the two go together is a
            reconstruction.
        consensus_step: gamma, in [0, 1], in x = h + gamma (W h - h); with a compressor x = h + gamma (W x_hat - x_hat).
        nonfinite: "raise" raises an error for NaN or infinite gradients before anything changes; "skip" counts them as
            zero.
        maximize: ascend the loss instead of descending it.
        backend: what computes the ops: "reference", "native" or "triton"; None chooses by device.
        seed: seed of the random numbers that a compressor draws, in [0, 2^63).
        placement: which process holds which agents, from `fs.place`; parameters are those of the agents of this
            process. None: all agents are here.
        process_group: short for `placement=fs.place(process_group=...)`: one agent per rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for the
            topology, graphs that are not doubly stochastic, betas that are not two numbers in [0, 1), another word for
            `quasi_global`.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.QGAdam(stack.parameters(), lr=1e-3, topology="ring")
        >>> inputs, targets = torch.randn(4, 8, 3), torch.randn(4, 8, 1)
        >>> stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets).backward()
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        128
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 1e-3,
        *,
        topology: Schedule | str | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        quasi_global: Literal["second", "both"] = "second",
        weight_decay: float | torch.Tensor = 0.0,
        compressor: Compressor | Choco | None = None,
        consensus_step: float = 1.0,
        nonfinite: Literal["raise", "skip"] = "raise",
        maximize: bool = False,
        backend: str | None = None,
        seed: int = 0,
        placement: Placement | None = None,
        process_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=qg_adam.QGAdam(betas, eps, quasi_global),
            communicator=Gossip(topology, compressor, consensus_step),
            weight_decay=weight_decay,
            nonfinite=nonfinite,
            maximize=maximize,
            backend=backend,
            seed=seed,
            placement=placement,
            process_group=process_group,
        )
