"""RelaySGD: partial sums relayed along a tree, whose ends all agents average exactly."""

from typing import Any, Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.gossip import Gossip
from fastsaddle.graphs.topology import Topology
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.ranks.placement import Placement
from fastsaddle.rules.relay import Relay


class RelaySGD(Optimizer):
    """RelaySGD: models are relayed along a tree, so that every agent holds an exact average of older models.

        h_i    = x_i - lr sgd(g_i)
        m_ij   = h_i + sum_{k != j} m_ki of the step before        sent to each neighbor j, with the number of its terms
        x_i    = ((n - sum_j n_ji) h_i + sum_j m_ji) / n

    Vogels et al. 2021 (arXiv:2110.04175), RelaySum/Model as in the authors' description: what has not arrived yet
    counts as h_i (their production code takes the initial model). The average is complete after as many steps as the
    diameter of the tree. The number of terms follows from the step, so that only one row is sent to each neighbor.
    Suitable learning rates are larger, by about the number of steps that messages travel. State: `relay_1` ... (what
    arrived from each neighbor, ascending), `momentum_buffer`, `step`.

    Args:
        params: parameters or groups of them, as for torch.optim. With a topology of n agents each is
            `[n, ...]` float32, stacked as those of `fs.AgentStack` are.
        lr: learning rate, >= 0: a float, or a tensor, 0-d or `[agents]`. It is read at every step.
        topology: a tree, such as `fs.topology.chain(n)`, "chain" or "binary_tree"; the weights of W are not used. None
            is a single agent with ordinary parameters.
        momentum: beta, in [0, 1).
        nesterov: use Nesterov's form instead of heavy ball, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        nonfinite: "raise" raises an error for NaN or infinite gradients before anything changes; "skip" counts them as
            zero.
        maximize: ascend the loss instead of descending it.
        backend: what computes the ops: "reference", "native" or "triton"; None chooses by device.
        placement: which process holds which agents, from `fs.place`; parameters are those of the agents of this
            process. None: all agents are here.
        process_group: short for `placement=fs.place(process_group=...)`: one agent per rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for the
            topology, a mixing matrix that is not symmetric, a graph that is no tree, or changes.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.RelaySGD(stack.parameters(), lr=0.1, topology="chain")
        >>> inputs, targets = torch.randn(4, 8, 3), torch.randn(4, 8, 1)
        >>> stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets).backward()
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        96
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Topology | str | None = None,
        momentum: float | torch.Tensor = 0.0,
        nesterov: bool = False,
        weight_decay: float | torch.Tensor = 0.0,
        nonfinite: Literal["raise", "skip"] = "raise",
        maximize: bool = False,
        backend: str | None = None,
        placement: Placement | None = None,
        process_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=Relay(momentum, nesterov),
            communicator=Gossip(topology),
            weight_decay=weight_decay,
            nonfinite=nonfinite,
            maximize=maximize,
            backend=backend,
            placement=placement,
            process_group=process_group,
        )
