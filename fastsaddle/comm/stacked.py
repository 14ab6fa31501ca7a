"""All agents in one process, models sent whole: a gossip step is one kernel over the stacked rows."""

import torch

from fastsaddle.comm.base import Exchange, LocalStep, MixingLists, local_models
from fastsaddle.graphs.topology import Topology
from fastsaddle.kernels.gossip_step import gossip_step
from fastsaddle.kernels.mix_dense import mix_dense
from fastsaddle.kernels.mix_neighbors import mix_neighbors
from fastsaddle.kernels.mix_update import mix_update

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

    state_names = ()

    def __init__(self, topology: Topology | None, consensus_step: float = 1.0) -> None:
        self.lists = MixingLists(topology, consensus_step)
        self.agents, self.messages = self.lists.agents, self.lists.messages
        self.dense = self.lists.width > DENSE_WIDTH
        self._W: torch.Tensor | None = None

    def gossip_step_(self, x: torch.Tensor, step: LocalStep, exchange: Exchange) -> int:
        if self.dense:
            self._dense_step(x, step)
        else:
            gossip_step(
                x,
                step.saved,
                step.g,
                step.momentum,
                *self.lists.on(x.device),
                step.lr,
                step.weight_decay,
                step.beta,
                step.mu,
                step.norm,
                step.kind,
                step.nesterov,
                step.maximize,
                *step.random,
            )
        return self.publish(x, exchange)

    def mixed(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        if self.dense:
            mix_dense(x, self._matrix(x.device), out)
        else:
            mix_neighbors(x, out, *self.lists.on(x.device))
        return out

    def differences(self, x: torch.Tensor) -> torch.Tensor:
        return self.lists.differences(x)

    def publish(self, x: torch.Tensor, exchange: Exchange) -> int:
        return 4 * self.messages * exchange.layout.dim

    def copies(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        return x

    def pulled(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        return self.mixed(x)

    def _dense_step(self, x: torch.Tensor, step: LocalStep) -> None:
        mixed = self.mixed(local_models(x, step))
        # everybody now reads its own row of what was mixed
        momentum = step.momentum if step.kind == 2 else None
        itself = self.lists.itself(x.device)
        rates = (step.lr, step.mu, step.norm)
        mix_update(x, step.saved, mixed, momentum, *itself, *rates, *step.random)

    def _matrix(self, device: torch.device) -> torch.Tensor:
        """W as dense float32 `[agents, agents]`, with the lists' rounded weights."""
        if self._W is None or self._W.device != device:
            neighbors, weights = self.lists.on(device)
            W = weights.new_zeros(self.agents, self.agents)
            self._W = W.scatter_add_(1, neighbors.clamp(min=0).long(), weights)
        return self._W
