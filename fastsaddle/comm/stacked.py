"""All agents in one process: a gossip step is one kernel over the stacked rows."""

import torch

from fastsaddle.comm.base import LocalStep
from fastsaddle.kernels.gossip_step import gossip_step
from fastsaddle.kernels.local_step import local_step
from fastsaddle.kernels.mix_dense import mix_dense
from fastsaddle.kernels.mix_neighbors import mix_neighbors
from fastsaddle.kernels.mix_update import mix_update
from fastsaddle.topology import Topology

# from this many terms a row on, a dense product is faster than walking neighbor lists
DENSE_WIDTH = 64


class Stacked:
    """Gossip among the rows of one buffer, by neighbor lists, or by a dense product where degrees are large.

    Args:
        topology: the graph; None is a single agent that talks to nobody.
        consensus_step: gamma in x = h + gamma (W h - h), folded into the weights; 1 is W h itself.

    Raises:
        ValueError: gamma outside [0, 1].
    """

    def __init__(self, topology: Topology | None, consensus_step: float = 1.0) -> None:
        if topology is None:
            lists = (torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 1, dtype=torch.float32))
        else:
            lists = topology.mixing_lists(consensus_step)
        self.neighbors, self.weights = lists
        self.agents = self.neighbors.shape[0]
        self.messages = 0 if topology is None else topology.messages
        self.dense = self.neighbors.shape[1] > DENSE_WIDTH

    def gossip_step_(self, x: torch.Tensor, step: LocalStep) -> None:
        self._move(x.device)
        if self.dense:
            self._dense_step(x, step)
            return
        gossip_step(
            x,
            step.saved,
            step.g,
            step.momentum,
            self.neighbors,
            self.weights,
            step.lr,
            step.weight_decay,
            step.beta,
            step.mu,
            step.norm,
            step.kind,
            step.nesterov,
            step.maximize,
        )

    def mix_(self, x: torch.Tensor) -> None:
        self._move(x.device)
        if self.dense:
            mix_dense(x.clone(), self._matrix(), x)
        else:
            mix_neighbors(x.clone(), x, self.neighbors, self.weights)

    def _dense_step(self, x: torch.Tensor, step: LocalStep) -> None:
        h, mixed = torch.empty_like(x), torch.empty_like(x)
        local_step(
            x,
            step.saved,
            step.g,
            step.momentum,
            h,
            step.lr,
            step.weight_decay,
            step.beta,
            step.norm,
            step.kind,
            step.nesterov,
            step.maximize,
        )
        mix_dense(h, self._matrix(), mixed)
        # everybody now reads its own row of what was mixed
        itself = torch.arange(self.agents, dtype=torch.int32, device=x.device)[:, None]
        one = torch.ones(self.agents, 1, dtype=torch.float32, device=x.device)
        momentum = step.momentum if step.kind == 2 else None
        mix_update(x, step.saved, mixed, momentum, itself, one, step.lr, step.mu, step.norm)

    def _matrix(self) -> torch.Tensor:
        """W as dense float32 `[agents, agents]`, with the lists' rounded weights."""
        W = self.weights.new_zeros(self.agents, self.agents)
        return W.scatter_add_(1, self.neighbors.clamp(min=0).long(), self.weights)

    def _move(self, device: torch.device) -> None:
        if self.neighbors.device != device:
            self.neighbors, self.weights = self.neighbors.to(device), self.weights.to(device)
