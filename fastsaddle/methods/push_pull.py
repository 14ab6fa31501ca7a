"""Push-Pull: gradient tracking on graphs that point one way."""

from typing import Any, Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm import push_pull as comm
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.ranks.placement import Placement
from fastsaddle.rules import push_pull as rules


class PushPull(Optimizer):
    """Push-Pull: models are pulled by R, whose rows sum to one, gradients are pushed by C, whose columns sum to one.

        y_i = sum_j C_ij y_j + g_i - g_i of the step before        (y_i = g_i at first)
        x_i = sum_j R_ij (x_j - lr y_j)

    Pu, Shi, Xu and Nedic 2018 (arXiv:1810.06653); the same two matrices, the models combined before they are adapted,
    are AB (Xin and Khan 2018, arXiv:1803.02503). Two rows are sent along each edge a step. State: `tracked` (y),
    `gradient` (g).

    Args:
        params: parameters or groups of them, as for torch.optim. With a topology of n agents each is
            `[n, ...]` float32, stacked as those of `fs.AgentStack` are.
        lr: learning rate, >= 0: a float, or a tensor, 0-d or `[agents]`. It is read at every step.
        topology: who talks to whom: an `fs.Topology` of any kind, an `fs.Schedule` of graphs that change, or a name.
            None is a single agent with ordinary parameters. R and C are its W where W is such a matrix; otherwise they
            have the same edges with equal weights.
        push_topology: the graph of C, if it differs from `topology`.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        consensus_step: gamma, in [0, 1]: the matrices used are (1 - gamma) I + gamma R and (1 - gamma) I + gamma C.
        nonfinite: "raise" raises an error for NaN or infinite gradients before anything changes; "skip" counts them as
            zero.
        maximize: ascend the loss instead of descending it.
        backend: what computes the ops: "reference", "native" or "triton"; None chooses by device.
        seed: in [0, 2^63); not used, as this method draws no random numbers.
        placement: which process holds which agents, from `fs.place`; parameters are those of the agents of this
            process, and the graph must be doubly stochastic. None: all agents are here.
        process_group: short for `placement=fs.place(process_group=...)`: one agent per rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for the
            topology, a matrix of the wrong kind.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.PushPull(stack.parameters(), lr=0.1, topology="directed-ring")
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
        push_topology: Schedule | str | None = None,
        weight_decay: float | torch.Tensor = 0.0,
        consensus_step: float = 1.0,
        nonfinite: Literal["raise", "skip"] = "raise",
        maximize: bool = False,
        backend: str | None = None,
        seed: int = 0,
        placement: Placement | None = None,
        process_group: Any = None,
    ) -> None:
        alone = topology is None and push_topology is None
        # None beside a push_topology is refused there
        pulled: Any = topology
        pushed_and_pulled = None if alone else comm.PushPull(pulled, push_topology, consensus_step)
        super().__init__(
            params,
            lr,
            rule=rules.PushPull(),
            communicator=pushed_and_pulled,
            weight_decay=weight_decay,
            nonfinite=nonfinite,
            maximize=maximize,
            backend=backend,
            seed=seed,
            placement=placement,
            process_group=process_group,
        )
