"""Cross-gradient methods: gradients that agents take for each other, plain and sharpness-aware."""

from typing import Any, Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.choco import Choco
from fastsaddle.comm.gossip import Gossip
from fastsaddle.compressors.base import Compressor
from fastsaddle.gradients.ascents import Ascent
from fastsaddle.gradients.cross import Cross, check_kind
from fastsaddle.gradients.sam import SAM
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.ranks.placement import Placement
from fastsaddle.rules.momentum import AdaptedMomentum


class NGM(Optimizer):
    """NGM: each agent steps along the mean of its own gradient and of cross-gradients, and mixes models.

        data:   G_i = W_ii grad F_i(x_i) + sum_j W_ij grad F_j(x_i)       taken by the neighbors, on their batches
        model:  G_i = W_ii grad F_i(x_i) + sum_j W_ij grad F_i(x_j)       at the neighbors' models, on the own batch
        x_i = x_i + gamma (sum_j W_ij x_j - x_i) - lr u(G_i + weight_decay x_i)

    Aketi, Kodge and Roy 2022 (arXiv:2209.14390), where it was first called NGC; all gradients of a step are taken at
    the same models, as in the paper. Their code weighs by 1 / (degree + 1), which is W on a regular graph. Models are
    sent to the neighbors, and with "data" each cross-gradient is sent back: 2 rows to each neighbor a step, or 1. The
    closure is called degree + 1 times (the largest degree); it must zero gradients, evaluate and back-propagate.

    With a compressor (Comp NGM, a reconstruction) models travel by CHOCO gossip, cross-gradients are taken at public
    copies and sent with error feedback, one memory for each neighbor. Their code compresses the self-gradient as well,
    which is not sent; here it stays exact. State: `momentum_buffer` or `quasi_global`, with a compressor also
    `residual_1` ..., with quasi-global momentum of mixed models `previous_mixed` and `previous_lr`.

    Args:
        params: parameters or groups of them, as for torch.optim. With a topology of n agents each is
            `[n, ...]` float32, stacked as those of `fs.AgentStack` are.
        lr: learning rate, >= 0: a float, or a tensor, 0-d or `[agents]`. It is read at every step.
        topology: who talks to whom: an `fs.Topology`, an `fs.Schedule` of graphs that change, or a name such as "ring",
            see `fs.topology.parse`. None is a single agent with ordinary parameters.
        cross_gradients: "data" or "model".
        momentum: beta, in [0, 1).
        qg_momentum: None keeps local momentum u; a number mu makes it quasi-global (as in `QGM`), from the displacement
            of x in a whole step.
        nesterov: use Nesterov's form instead of heavy ball, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        mixed_self_gradient: take the self-gradient, and weight decay, at the mixed model instead, as the authors' code
            does; quasi-global momentum then follows mixed models, as theirs does.
        compressor: compresses messages: an `fs.compressors.Compressor`, used by CHOCO gossip, or an `fs.Choco` with
            options of its own. None, like `fs.compressors.Identity()`, sends whole models. It adds state: `x_hat`, the
            public copies, and `step`, the number of rounds done.
        consensus_step: gamma, in [0, 1]; the authors' code takes 0.1 with "data".
        nonfinite: "raise" raises an error for NaN or infinite gradients before anything changes; with "skip" such
            agents skip their local step, and their models are still mixed.
        maximize: ascend the loss instead of descending it.
        backend: what computes the ops: "reference", "native" or "triton"; None chooses by device.
        seed: seed of the random numbers that a compressor draws, in [0, 2^63).
        placement: which process holds which agents, from `fs.place`; parameters are those of the agents of this
            process. None: all agents are here.
        process_group: short for `placement=fs.place(process_group=...)`: one agent per rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for the
            topology, a mixing matrix that is not symmetric, with a compressor graphs that change.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.NGM(stack.parameters(), lr=0.1, topology="ring")
        >>> inputs, targets = torch.randn(4, 8, 3), torch.randn(4, 8, 1)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets)
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)
        >>> optimizer.bytes_sent
        256
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Schedule | str | None = None,
        cross_gradients: Literal["data", "model"] = "data",
        momentum: float | torch.Tensor = 0.9,
        qg_momentum: float | torch.Tensor | None = None,
        nesterov: bool = False,
        weight_decay: float | torch.Tensor = 0.0,
        mixed_self_gradient: bool = False,
        compressor: Compressor | Choco | None = None,
        consensus_step: float = 1.0,
        nonfinite: Literal["raise", "skip"] = "raise",
        maximize: bool = False,
        backend: str | None = None,
        seed: int = 0,
        placement: Placement | None = None,
        process_group: Any = None,
    ) -> None:
        check_kind("cross_gradients", cross_gradients)
        super().__init__(
            params,
            lr,
            gradient=Cross(cross_gradients, mixed_self_gradient=mixed_self_gradient),
            rule=rule_of(momentum, qg_momentum, nesterov, mixed_self_gradient),
            communicator=Gossip(topology, compressor, consensus_step),
            weight_decay=weight_decay,
            nonfinite=nonfinite,
            maximize=maximize,
            backend=backend,
            seed=seed,
            placement=placement,
            process_group=process_group,
        )


class NSADDLe(Optimizer):
    """N-SADDLe: NGM with SAM gradients, grad F_j(y + rho g / ||g||) with g = grad F_j(y) at each model y.

    Choudhary et al. 2024 (arXiv:2405.13961). A reconstruction: the paper's own algorithm could not be read, and whether
    cross-gradients are perturbed with their own norms is an open point; they are here, and `perturb="self"` perturbs
    the self-gradient alone. The closure is called 2 (degree + 1) times, or degree + 2. Comp N-SADDLe, with a
    compressor, is a reconstruction too, as in `NGM`. State as in `NGM`; with LookSAM also `sharp_direction`,
    `sharp_direction_1`, ...

    Args:
        params: parameters or groups of them, as for torch.optim. With a topology of n agents each is
            `[n, ...]` float32, stacked as those of `fs.AgentStack` are.
        lr: learning rate, >= 0: a float, or a tensor, 0-d or `[agents]`. It is read at every step.
        topology: who talks to whom: an `fs.Topology`, an `fs.Schedule` of graphs that change, or a name such as "ring",
            see `fs.topology.parse`. None is a single agent with ordinary parameters.
        cross_gradients: "data" or "model".
        rho: perturbation radius, >= 0; the default 0.05 is SAM's.
        momentum: beta, in [0, 1).
        qg_momentum: None keeps local momentum u; a number mu makes it quasi-global (as in `QGM`), from the displacement
            of x in a whole step.
        nesterov: use Nesterov's form instead of heavy ball, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        mixed_self_gradient: take the self-gradient, and weight decay, at the mixed model instead, as the authors' code
            does; quasi-global momentum then follows mixed models, as theirs does.
        adaptive: perturb by rho x^2 g / || |x| g || instead (ASAM, Kwon et al. 2021, arXiv:2102.11600, without its
            constant); a suitable rho is then about ten times larger.
        perturb: "all" gradients, or "self".
        sam: a cheaper way to the SAM gradient, `fs.LookSAM(...)`, `fs.MomentumSAM()` (along the momentum of the agent
            that takes the gradient) or `fs.ESAM(...)`.
        compressor: compresses messages: an `fs.compressors.Compressor`, used by CHOCO gossip, or an `fs.Choco` with
            options of its own. None, like `fs.compressors.Identity()`, sends whole models. It adds state: `x_hat`, the
            public copies, and `step`, the number of rounds done.
        consensus_step: gamma, in [0, 1]; the authors' code takes 0.1 with "data".
        nonfinite: "raise" raises an error for NaN or infinite gradients before anything changes; with "skip" such
            agents skip their local step, and their models are still mixed.
        maximize: ascend the loss instead of descending it.
        backend: what computes the ops: "reference", "native" or "triton"; None chooses by device.
        seed: seed of the random numbers that a compressor and ESAM draw, in [0, 2^63).
        placement: which process holds which agents, from `fs.place`; parameters are those of the agents of this
            process. None: all agents are here.
        process_group: short for `placement=fs.place(process_group=...)`: one agent per rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for the
            topology, a mixing matrix that is not symmetric, with a compressor graphs that change.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.NSADDLe(stack.parameters(), lr=0.1, topology="ring", rho=0.05)
        >>> inputs, targets = torch.randn(4, 8, 3), torch.randn(4, 8, 1)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets)
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)
        >>> optimizer.bytes_sent
        256
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Schedule | str | None = None,
        cross_gradients: Literal["data", "model"] = "data",
        rho: float | torch.Tensor = 0.05,
        momentum: float | torch.Tensor = 0.9,
        qg_momentum: float | torch.Tensor | None = None,
        nesterov: bool = False,
        weight_decay: float | torch.Tensor = 0.0,
        mixed_self_gradient: bool = False,
        adaptive: bool = False,
        perturb: Literal["all", "self"] = "all",
        sam: Ascent | None = None,
        compressor: Compressor | Choco | None = None,
        consensus_step: float = 1.0,
        nonfinite: Literal["raise", "skip"] = "raise",
        maximize: bool = False,
        backend: str | None = None,
        seed: int = 0,
        placement: Placement | None = None,
        process_group: Any = None,
    ) -> None:
        check_kind("cross_gradients", cross_gradients)
        super().__init__(
            params,
            lr,
            gradient=Cross(cross_gradients, SAM(rho, adaptive, sam), perturb, mixed_self_gradient),
            rule=rule_of(momentum, qg_momentum, nesterov, mixed_self_gradient),
            communicator=Gossip(topology, compressor, consensus_step),
            weight_decay=weight_decay,
            nonfinite=nonfinite,
            maximize=maximize,
            backend=backend,
            seed=seed,
            placement=placement,
            process_group=process_group,
        )


def rule_of(
    momentum: float | torch.Tensor,
    qg_momentum: float | torch.Tensor | None,
    nesterov: bool,
    mixed_self_gradient: bool,
) -> AdaptedMomentum:
    """Local momentum, or quasi-global where a mu is given, which follows what the authors' code lets it follow."""
    return AdaptedMomentum(
        "local" if qg_momentum is None else "quasi-global",
        momentum,
        qg_momentum,
        nesterov,
        displacement="mixed" if mixed_self_gradient else "models",
    )
