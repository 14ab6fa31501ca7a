"""Neighbor lists on a device: who hears whom, with which weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fastsaddle.graphs.topology import Topology
from fastsaddle.optimizer.hyperparameters import is_number

if TYPE_CHECKING:
    from fastsaddle.ranks.plan import Plan


@dataclass(frozen=True)
class Lists:
    """One round's lists, as kernels take them.

    Attributes:
        neighbors: int32 `[agents, width]`: rows of the halo, each agent's own first, then its neighbors', ascending,
            padded with -1.
        weights: float32 `[agents, width]`, W with the consensus step folded in; zero where a list has ended.
        incoming: int32 `[agents, width - 1]`: rows of what `Communicator.deliver` gives, by the slot of the neighbor
            that sent them, padded with -1.
    """

    neighbors: torch.Tensor
    weights: torch.Tensor
    incoming: torch.Tensor

    @property
    def width(self) -> int:
        return self.neighbors.shape[1]

    def whose(self, slot: int) -> torch.Tensor:
        """Int64 `[agents]`: who stands at `slot` of each agent's list; itself where the list has ended."""
        neighbors = self.neighbors.long()
        return torch.where(neighbors[:, slot] < 0, neighbors[:, 0], neighbors[:, slot])


class MixingLists:
    """Neighbor lists with weights, as kernels take them; each device's copy is made once and kept.

    Args:
        topology: the graph; None is a single agent that talks to nobody.
        consensus_step: gamma, folded into the weights: (1 - gamma) I + gamma W.
        plan: of the agents here, where others are elsewhere.

    Raises:
        ValueError: gamma outside [0, 1].
    """

    def __init__(
        self,
        topology: Topology | None,
        consensus_step: float = 1.0,
        plan: Plan | None = None,
    ) -> None:
        check_consensus_step(consensus_step)
        whole = (
            self._lists(topology, consensus_step) if plan is None else plan.lists(consensus_step)
        )
        self.agents, self.width = whole.neighbors.shape
        near = () if topology is None else topology.neighbors
        # each edge's two ends send to each other
        self.messages = sum(map(len, near if plan is None else near[slice(*plan.span)]))
        own = torch.arange(self.agents, dtype=torch.int32, device="cpu")[:, None]
        one = torch.ones(self.agents, 1, dtype=torch.float32, device="cpu")
        alone = Lists(own, one, incoming(own))
        # kept for good: a captured graph knows nothing but addresses
        self._on = {torch.device("cpu"): (whole, alone)}

    @staticmethod
    def _lists(topology: Topology | None, consensus_step: float) -> Lists:
        """Those of a whole graph."""
        if topology is None:
            neighbors = torch.zeros(1, 1, dtype=torch.int32, device="cpu")
            weights = torch.ones(1, 1, dtype=torch.float32, device="cpu")
        else:
            neighbors, weights = topology.mixing_lists(consensus_step)
        return Lists(neighbors, weights, incoming(neighbors))

    def on(self, device: torch.device) -> Lists:
        """The lists on a device."""
        return self._both(device)[0]

    def alone(self, device: torch.device) -> Lists:
        """Lists by which every agent reads its own row alone."""
        return self._both(device)[1]

    def _both(self, device: torch.device) -> tuple[Lists, Lists]:
        if device not in self._on:
            first = next(iter(self._on.values()))
            whole, alone = (Lists(*(t.to(device) for t in vars(x).values())) for x in first)
            self._on[device] = whole, alone
        return self._on[device]


def differences(lists: Lists, x: torch.Tensor, halo: torch.Tensor) -> torch.Tensor:
    """sum_j M_ij (x_j - x_i) `[agents, columns]`, summed in the lists' order, M being W with gamma folded in.

    Args:
        lists: they name rows of the halo.
        x: `[agents, columns]`.
        halo: x, then the rows heard of agents elsewhere.
    """
    moved = torch.zeros_like(x)
    for slot in range(1, lists.width):
        # the weight is zero where a list has ended
        others = halo.index_select(0, lists.whose(slot))
        moved.add_(lists.weights[:, slot, None] * (others - x))
    return moved


def incoming(neighbors: torch.Tensor) -> torch.Tensor:
    """Where what neighbors sent lies: rows of blocks of one row an agent, block k sent to each one's k-th neighbor."""
    agents, width = neighbors.shape
    listed = neighbors[:, 1:].tolist()
    place = {(i, j): k * agents + i for i, near in enumerate(listed) for k, j in enumerate(near)}
    rows = [
        [place.get((j, i), -1) if j >= 0 else -1 for j in near] for i, near in enumerate(listed)
    ]
    return torch.tensor(rows, dtype=torch.int32, device="cpu").reshape(agents, width - 1)


def check_consensus_step(consensus_step: float) -> None:
    """Raise ValueError unless gamma is in [0, 1]."""
    if not is_number(consensus_step) or not 0 <= consensus_step <= 1:
        raise ValueError(f"consensus_step must be in [0, 1], got {consensus_step!r}")
