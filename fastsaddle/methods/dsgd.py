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
    """Decentralized SGD: every agent takes a step of SGD, then mixes its model with its neighbors'.

        h_i = x_i - lr (g_i + weight_decay x_i)
        x_i = sum_j W_ij h_j

    D-PSGD (Lian et al. 2017, arXiv:1705.09056) in adapt-then-combine order. Each agent sends one model to each neighbor
    a step.

    Args:
        params: parameters or groups of them, as for torch.optim. With a topology of n agents each is
            `[n, ...]` float32, stacked as those of `fs.AgentStack` are.
        lr: learning rate, >= 0: a float, or a tensor, 0-d or `[agents]`. It is read at every step.
        topology: who talks to whom: an `fs.Topology`, an `fs.Schedule` of graphs that change, or a name such as "ring",
            see `fs.topology.parse`. None is a single agent with ordinary parameters.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        compressor: compresses messages: an `fs.compressors.Compressor`, used by CHOCO gossip, or an `fs.Choco` with
            options of its own. None, like `fs.compressors.Identity()`, sends whole models. It adds state: `x_hat`, the
            public copies, and `step`, the number of rounds done.
        consensus_step: gamma, in [0, 1], in x = h + gamma (W h - h); with a compressor x = h + gamma (W x_hat - x_hat).
        push_sum: push-sum along a column-stochastic W (Assran et al. 2019, arXiv:1811.10792): sums x and weights w are
            mixed, and the models are z = x / w. It adds the state `push_weight` (w) and takes no compressor.
        nonfinite: "raise" raises an error for NaN or infinite gradients before anything changes; with "skip" such
            agents skip their local step, and their models are still mixed.
        maximize: ascend the loss instead of descending it.
        backend: what computes the ops: "reference", "native" or "triton"; None chooses by device.
        seed: seed of the random numbers that a compressor and bfloat16 state draw, in [0, 2^63).
        state_dtype: torch.float32, or torch.bfloat16 for momentum and public copies, rounded stochastically; see
            `fs.Optimizer`.
        placement: which process holds which agents, from `fs.place`; parameters are those of the agents of this
            process. None: all agents are here.
        process_group: short for `placement=fs.place(process_group=...)`: one agent per rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for the
            topology, graphs that are not doubly stochastic, a compressor whose public copies cannot be bfloat16.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.DSGD(stack.parameters(), lr=0.1, topology="ring")
        >>> inputs, targets = torch.randn(4, 8, 3), torch.randn(4, 8, 1)
        >>> stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets).backward()
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        128
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
    """DSGD with local momentum: every agent has a momentum buffer of its own, and only models travel.

        m_i = momentum m_i + g_i
        h_i = x_i - lr (m_i, or g_i + momentum m_i with Nesterov)
        x_i = sum_j W_ij h_j

    Lian et al. 2017 (arXiv:1705.09056) with the momentum of torch.optim.SGD. The buffer starts at zero and is in
    gradient units: a change of lr leaves it as it is. State: `momentum_buffer`.

    Args:
        params: parameters or groups of them, as for torch.optim. With a topology of n agents each is
            `[n, ...]` float32, stacked as those of `fs.AgentStack` are.
        lr: learning rate, >= 0: a float, or a tensor, 0-d or `[agents]`. It is read at every step.
        topology: who talks to whom: an `fs.Topology`, an `fs.Schedule` of graphs that change, or a name such as "ring",
            see `fs.topology.parse`. None is a single agent with ordinary parameters.
        momentum: beta, in [0, 1).
        nesterov: use Nesterov's form instead of heavy ball, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        compressor: compresses messages: an `fs.compressors.Compressor`, used by CHOCO gossip, or an `fs.Choco` with
            options of its own. None, like `fs.compressors.Identity()`, sends whole models. It adds state: `x_hat`, the
            public copies, and `step`, the number of rounds done.
        consensus_step: gamma, in [0, 1], in x = h + gamma (W h - h); with a compressor x = h + gamma (W x_hat - x_hat).
        push_sum: push-sum along a column-stochastic W (Assran et al. 2019, arXiv:1811.10792): sums x and weights w are
            mixed, and the models are z = x / w. It adds the state `push_weight` (w) and takes no compressor.
        nonfinite: "raise" raises an error for NaN or infinite gradients before anything changes; with "skip" such
            agents skip their local step, and their models are still mixed.
        maximize: ascend the loss instead of descending it.
        backend: what computes the ops: "reference", "native" or "triton"; None chooses by device.
        seed: seed of the random numbers that a compressor and bfloat16 state draw, in [0, 2^63).
        state_dtype: torch.float32, or torch.bfloat16 for momentum and public copies, rounded stochastically; see
            `fs.Optimizer`.
        placement: which process holds which agents, from `fs.place`; parameters are those of the agents of this
            process. None: all agents are here.
        process_group: short for `placement=fs.place(process_group=...)`: one agent per rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for the
            topology, graphs that are not doubly stochastic, a compressor whose public copies cannot be bfloat16.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.DSGDm(stack.parameters(), lr=0.1, topology="ring", momentum=0.9)
        >>> inputs, targets = torch.randn(4, 8, 3), torch.randn(4, 8, 1)
        >>> stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets).backward()
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        128
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
