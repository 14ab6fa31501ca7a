"""Gradient tracking and momentum tracking."""

from typing import Any, Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.choco import Choco
from fastsaddle.comm.gossip import Gossip
from fastsaddle.compressors.base import Compressor
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.ranks.placement import Placement
from fastsaddle.rules import tracking


class GradientTracking(Optimizer):
    """DSGT, gradient tracking: each agent steps along an estimate of the mean of all agents' gradients.

        y_i = sum_j W_ij y_j + g_i - g_i of the step before        (y_i = g_i at first)
        x_i = sum_j W_ij x_j - lr sgd(y_i)

    Heterogeneous data leave no bias. Di Lorenzo and Scutari 2016 (arXiv:1602.00391); Nedic, Olshevsky and Shi 2017
    (arXiv:1607.03218), in the combine-then-adapt form of the code of arXiv:2102.04761. Two rows are sent to each
    neighbor a step. State: `tracked` (y), `gradient` (g), `momentum_buffer`.

    Args:
        params: parameters or groups of them, as for torch.optim. With a topology of n agents each is
            `[n, ...]` float32, stacked as those of `fs.AgentStack` are.
        lr: learning rate, >= 0: a float, or a tensor, 0-d or `[agents]`. It is read at every step.
        topology: who talks to whom: an `fs.Topology`, an `fs.Schedule` of graphs that change, or a name such as "ring",
            see `fs.topology.parse`. None is a single agent with ordinary parameters.
        momentum: beta, in [0, 1).
        nesterov: use Nesterov's form instead of heavy ball, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        compressor: compresses messages: an `fs.compressors.Compressor` or an `fs.Choco`; None sends whole rows. Each
            row that is sent has its own public copy: state `x_hat`, `tracked_hat`, `step`. How the two go together is a
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
            topology, graphs that are not doubly stochastic.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.GradientTracking(stack.parameters(), lr=0.1, topology="ring")
        >>> inputs, targets = torch.randn(4, 8, 3), torch.randn(4, 8, 1)
        >>> stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets).backward()
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        256
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Schedule | str | None = None,
        momentum: float | torch.Tensor = 0.0,
        nesterov: bool = False,
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
            rule=tracking.GradientTracking(momentum, nesterov),
            communicator=Gossip(topology, compressor, consensus_step),
            weight_decay=weight_decay,
            nonfinite=nonfinite,
            maximize=maximize,
            backend=backend,
            seed=seed,
            placement=placement,
            process_group=process_group,
        )


class MomentumTracking(Optimizer):
    """Momentum tracking: local momentum u_i minus c_i, its tracked deviation from the agents' mean.

        u_i = beta u_i + g_i
        x_i = sum_j W_ij x_j - lr (u_i - c_i)
        c_i = sum_j W_ij (c_j - u_j) + u_i

    Takezawa et al. 2022 (arXiv:2209.15505) and the authors' code, from c = 0 (their demo begins with one exact
    average; the sum of c stays zero either way). momentum = 0 is gradient tracking. Two rows are sent to each neighbor
    a step. State: `momentum_buffer` (u), `correction` (c).

    Args:
        params: parameters or groups of them, as for torch.optim. With a topology of n agents each is
            `[n, ...]` float32, stacked as those of `fs.AgentStack` are.
        lr: learning rate, >= 0: a float, or a tensor, 0-d or `[agents]`. It is read at every step.
        topology: who talks to whom: an `fs.Topology`, an `fs.Schedule` of graphs that change, or a name such as "ring",
            see `fs.topology.parse`. None is a single agent with ordinary parameters.
        momentum: beta, in [0, 1).
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        compressor: compresses messages: an `fs.compressors.Compressor` or an `fs.Choco`; None sends whole rows. Each
            row that is sent has its own public copy: state `x_hat`, `correction_hat`, `step`. How the two go together
            is a reconstruction.
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
            topology, graphs that are not doubly stochastic.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.MomentumTracking(stack.parameters(), lr=0.1, topology="ring")
        >>> inputs, targets = torch.randn(4, 8, 3), torch.randn(4, 8, 1)
        >>> stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets).backward()
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        256
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Schedule | str | None = None,
        momentum: float | torch.Tensor = 0.9,
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
            rule=tracking.MomentumTracking(momentum),
            communicator=Gossip(topology, compressor, consensus_step),
            weight_decay=weight_decay,
            nonfinite=nonfinite,
            maximize=maximize,
            backend=backend,
            seed=seed,
            placement=placement,
            process_group=process_group,
        )
