"""The contract of a communicator: one word for a whole gossip step, one for a round alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from fastsaddle.graphs.topology import Topology
from fastsaddle.kernels.local_step import local_step
from fastsaddle.optimizer.flat_layout import FlatLayout


@dataclass(frozen=True)
class LocalStep:
    """What a gossip step does before and after the exchange: the arguments of the gossip_step op.

    Attributes:
        saved: `[agents, columns]` float32, the models to return to after a perturbation; None where there was none.
        g: `[agents, columns]` float32 gradients.
        momentum: `[agents, columns]` float32 or bfloat16, updated; None for kind 0.
        lr, weight_decay, beta, mu: float32, 0-d or `[agents]`.
        norm: `[agents]` float32, or None: agents whose norm is not finite take no local step.
        kind: 0 no momentum, 1 local, 2 quasi-global.
        seed, number: of the draws that round bfloat16 momentum; the number is int64, 0-d: rounds done before.
    """

    saved: torch.Tensor | None
    g: torch.Tensor
    momentum: torch.Tensor | None
    lr: torch.Tensor
    weight_decay: torch.Tensor
    beta: torch.Tensor
    mu: torch.Tensor
    norm: torch.Tensor | None
    kind: int
    nesterov: bool
    maximize: bool
    seed: int
    number: torch.Tensor

    @property
    def random(self) -> tuple[int, torch.Tensor, int]:
        """Seed, step and first agent as ops take them."""
        return self.seed, self.number, 0


def local_models(x: torch.Tensor, step: LocalStep) -> torch.Tensor:
    """h, every agent's model after its local step, `[agents, columns]`; local momentum is updated."""
    h = torch.empty_like(x)
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
        *step.random,
    )
    return h


@dataclass(frozen=True)
class Exchange:
    """What one round's messages are made of.

    Attributes:
        layout: where tensors lie in the columns.
        states: the communicator's own state, by name, `[agents, columns]` float32, updated. Public copies may be
            bfloat16 where a step is one kernel.
        seed: of a compressor's random numbers.
        number: int64, 0-d: rounds done before.
        squares: `[agents, 2]` float64: squared norms of what was to be sent and what compression lost of it;
            overwritten, untouched where nothing is compressed.
    """

    layout: FlatLayout
    states: Mapping[str, torch.Tensor]
    seed: int
    number: torch.Tensor
    squares: torch.Tensor


class Communicator(Protocol):
    """Moves models along the edges of a graph.

    Attributes:
        agents: rows of the buffers it works on: all agents, or those of this process.
        messages: models sent in one round by those agents, to all their neighbors together.
        state_names: names of the buffers it keeps between rounds, rows like the models'.
    """

    agents: int
    messages: int
    state_names: tuple[str, ...]

    def gossip_step_(self, x: torch.Tensor, step: LocalStep, exchange: Exchange) -> int:
        """Local step, gossip, momentum; all in place on `x` `[agents, columns]` float32. Returns bytes sent."""
        ...

    def mixed(self, x: torch.Tensor) -> torch.Tensor:
        """One gossip round alone: (1 - gamma) x + gamma W x, new, of `[agents, columns]` float32."""
        ...

    def differences(self, x: torch.Tensor) -> torch.Tensor:
        """gamma sum_j W_ij (x_j - x_i), new: `mixed(x) - x`, but what an edge moves cancels to the bit."""
        ...

    def publish(self, x: torch.Tensor, exchange: Exchange) -> int:
        """Tell the neighbors about models x `[agents, columns]`; states follow. Returns bytes sent."""
        ...

    def copies(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        """What neighbors know of models x after `publish`, `[agents, columns]`; may be x itself."""
        ...

    def pulled(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        """x + gamma (W c - c), new, c being what `copies` gives."""
        ...


class MixingLists:
    """W as neighbor lists on the device that was last asked for.

    Args:
        topology: the graph; None is a single agent that talks to nobody.
        consensus_step: gamma, folded into the weights: (1 - gamma) I + gamma W.

    Raises:
        ValueError: gamma outside [0, 1].
    """

    def __init__(self, topology: Topology | None, consensus_step: float = 1.0) -> None:
        if not 0 <= consensus_step <= 1:
            raise ValueError(f"consensus_step must be in [0, 1], got {consensus_step!r}")
        if topology is None:
            lists = (torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 1, dtype=torch.float32))
        else:
            lists = topology.mixing_lists(consensus_step)
        self._neighbors, self._weights = lists
        self.agents, self.width = self._neighbors.shape
        self.messages = 0 if topology is None else topology.messages
        own = torch.arange(self.agents, dtype=torch.int32)[:, None]
        self._itself = own, torch.ones(self.agents, 1, dtype=torch.float32)

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """(neighbors int32, weights float32), both `[agents, width]`, on a device."""
        if self._neighbors.device != device:
            self._neighbors, self._weights = self._neighbors.to(device), self._weights.to(device)
        return self._neighbors, self._weights

    def whose(self, slot: int, device: torch.device) -> torch.Tensor:
        """Int64 `[agents]`: who stands at `slot` of each agent's list; itself where the list has ended."""
        neighbors = self.on(device)[0].long()
        return torch.where(neighbors[:, slot] < 0, neighbors[:, 0], neighbors[:, slot])

    def differences(self, x: torch.Tensor) -> torch.Tensor:
        """sum_j M_ij (x_j - x_i) `[agents, columns]`, summed in the lists' order, M being W with gamma folded in."""
        _, weights = self.on(x.device)
        moved = torch.zeros_like(x)
        for slot in range(1, self.width):
            # the weight is zero where a list has ended
            others = x.index_select(0, self.whose(slot, x.device))
            moved.add_(weights[:, slot, None] * (others - x))
        return moved

    def itself(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Lists by which every agent reads its own row alone."""
        own, ones = self._itself
        self._itself = own.to(device), ones.to(device)
        return self._itself
