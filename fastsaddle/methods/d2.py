"""D2: the displacement that gossip caused is given back in the next step."""

from typing import Any, Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.choco import Choco
from fastsaddle.comm.gossip import Gossip
from fastsaddle.compressors.base import Compressor
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.ranks.placement import Placement
from fastsaddle.rules import d2


class D2(Optimizer):
    """D2: removes the bias of heterogeneous data, and sends only one row to each neighbor a step.

        c_i = c_i lr / (lr of the step before)                    (left alone where either is zero)
        h_i = x_i - lr sgd(g_i)
        c_i = c_i + sum_j W_ij ((h_j + c_j) - (h_i + c_i))        (c_i = 0 at first)
        x_i = h_i + c_i                                           which is sum_j W_ij (h_j + c_j)

    Tang et al. 2018 (arXiv:1803.07068), in the form of the code of arXiv:2110.04175: at constant lr without momentum it
    is the paper's 2 x_t - x_{t-1} - lr (g_t - g_{t-1}). The correction rests at lr times a gradient, so it is scaled
    when lr changes, as in the rate-safe form of the code of arXiv:2102.04761. Differences are mixed, not models, so
    that rounding leaves the sum of c at zero. State: `correction` (c), `momentum_buffer`, `previous_lr`.

    W's smallest eigenvalue must be above -1/3. A ring of an even number of agents has exactly -1/3: this
    gives a warning; others use `consensus_step=0.5` there, which mixes by (W + I) / 2.

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
            topology, a mixing matrix that is not symmetric or has an eigenvalue below -1/3, graphs that change among
            which differences grow.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=5)
        >>> optimizer = fs.D2(stack.parameters(), lr=0.1, topology="ring")
        >>> inputs, targets = torch.randn(5, 8, 3), torch.randn(5, 8, 1)
        >>> stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets).backward()
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        160
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
            rule=d2.D2(momentum, nesterov),
            communicator=Gossip(topology, compressor, consensus_step),
            weight_decay=weight_decay,
            nonfinite=nonfinite,
            maximize=maximize,
            backend=backend,
            seed=seed,
            placement=placement,
            process_group=process_group,
        )
