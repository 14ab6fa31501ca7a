"""Global update tracking: gradients at the mixed models, and a tracked mean of all updates."""

from typing import Any, Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.gossip import Gossip
from fastsaddle.gradients.mixed import Mixed
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.ranks.placement import Placement
from fastsaddle.rules import gut


class GUT(Optimizer):
    """GUT: every agent steps along a tracked estimate of the mean update of all agents, gossip included.

        xm_i = sum_j W_ij x_j
        d_i  = grad F_i(xm_i) - (xm_i - x_i) / lr_prev
        y_i  = d_i + tracking (sum_j W_ij (xp_j - x_j) / lr_prev - dp_i - b (sum_j W_ij xp_j - xp_i) / lr_prev)
        x_i  = x_i - lr sgd(y_i)

    with xp, dp and lr_prev of the step before and b = 1 + beta (+ beta^2 with Nesterov's form); y = d in the first
    step, where lr_prev is lr. A step at lr = 0 changes nothing. Aketi, Hashemi and Roy 2023 (arXiv:2305.04792) and the
    authors' code; with momentum it is their QG-GUTm. Gossip enters through d alone. One row is sent to each neighbor a
    step. `step` needs a closure: parameters are at the mixed models while it runs, and at x again afterwards. State:
    `previous` (xp), `previous_mixed` (W xp), `update` (d), `momentum_buffer`; groups remember lr_prev as `previous_lr`.

    Args:
        params: parameters or groups of them, as for torch.optim. With a topology of n agents each is
            `[n, ...]` float32, stacked as those of `fs.AgentStack` are.
        lr: learning rate, >= 0: a float or a 0-d tensor. It is read at every step.
        topology: who talks to whom: an `fs.Topology`, an `fs.Schedule` of graphs that change, or a name such as "ring",
            see `fs.topology.parse`. None is a single agent with ordinary parameters.
        tracking: mu, >= 0; the published runs take 0.9 without momentum and 0.005 to 0.08 with it.
        momentum: beta, in [0, 1).
        nesterov: use Nesterov's form instead of heavy ball, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        consensus_step: gamma, in [0, 1]: models are mixed to x + gamma (W x - x).
        nonfinite: "raise" raises an error for NaN or infinite gradients before anything changes; "skip" counts them as
            zero.
        maximize: ascend the loss instead of descending it.
        backend: what computes the ops: "reference", "native" or "triton"; None chooses by device.
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
        >>> optimizer = fs.GUT(stack.parameters(), lr=0.1, topology="ring")
        >>> inputs, targets = torch.randn(4, 8, 3), torch.randn(4, 8, 1)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets)
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)
        >>> optimizer.bytes_sent
        128
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Schedule | str | None = None,
        tracking: float | torch.Tensor = 0.9,
        momentum: float | torch.Tensor = 0.0,
        nesterov: bool = False,
        weight_decay: float | torch.Tensor = 0.0,
        consensus_step: float = 1.0,
        nonfinite: Literal["raise", "skip"] = "raise",
        maximize: bool = False,
        backend: str | None = None,
        placement: Placement | None = None,
        process_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            gradient=Mixed(),
            rule=gut.GUT(tracking, momentum, nesterov),
            communicator=Gossip(topology, consensus_step=consensus_step),
            weight_decay=weight_decay,
            nonfinite=nonfinite,
            maximize=maximize,
            backend=backend,
            placement=placement,
            process_group=process_group,
        )
