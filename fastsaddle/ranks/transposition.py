"""Whole-network means in the order of agents, by dealing columns out: equal bits whoever holds whom."""

from __future__ import annotations

import torch

from fastsaddle.kernels.consensus import consensus
from fastsaddle.ranks.header import Kind
from fastsaddle.ranks.mail import Mail, to_all
from fastsaddle.ranks.peers import Peers
from fastsaddle.ranks.placement import Placement

# columns are dealt out in blocks of so many
BLOCK = 32


class Transposition:
    """The mean of all agents' rows: each rank sums the columns that are its own, of all agents in their order.

    Args:
        placement: who holds which agents.
        peers: of all ranks.
    """

    def __init__(self, placement: Placement, peers: Peers) -> None:
        self.placement, self.peers = placement, peers
        self._mails: dict[tuple[int, torch.device], tuple[Mail, Mail]] = {}

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """`[columns]` float32, of x `[agents here, columns]` float32; every rank must call it.

        Raises:
            PeerError: a rank did not.
        """
        here, (agents, columns) = self.placement, x.shape
        widths = self._widths(columns)
        widest, mine = max(widths), widths[here.rank]
        scatter, spread = self._mails_of(widest, x.device)
        numbers = scatter.out.view(torch.float32)[:, 32:]
        slices = x.split(widths, 1)
        others = [rank for rank in range(len(widths)) if rank != here.rank]
        for k, rank in enumerate(others):
            numbers[k * agents : (k + 1) * agents, : widths[rank]] = slices[rank]
        self.peers.exchange(scatter)
        arrived = scatter.into.view(torch.float32)[:, 32 : 32 + mine]
        first = here.first_agent
        # all agents' rows of these columns, in their order
        rows = torch.cat([arrived[:first], slices[here.rank], arrived[first:]])
        total = torch.zeros(widest, dtype=torch.float32, device=x.device)
        if mine:
            distance = torch.empty(len(rows), dtype=torch.float64, device=x.device)
            consensus(rows, total[:mine], distance)
        spread.out.view(torch.float32)[:, 32:] = total
        self.peers.exchange(spread)
        parts = list(spread.into.view(torch.float32)[:, 32:])
        parts.insert(here.rank, total)
        return torch.cat([part[:width] for part, width in zip(parts, widths, strict=True)])

    def _widths(self, columns: int) -> list[int]:
        """Columns of each rank, multiples of a block but for the last."""
        ranks = len(self.placement.counts)
        each = -(-columns // (ranks * BLOCK)) * BLOCK
        return [min(max(columns - rank * each, 0), each) for rank in range(ranks)]

    def _mails_of(self, widest: int, device: torch.device) -> tuple[Mail, Mail]:
        """Messages with slices of rows, and with slices of the mean."""
        key = (widest, device)
        if key not in self._mails:
            here = self.placement
            others = [rank for rank in range(len(here.counts)) if rank != here.rank]
            own = to_all(here.agents_of(here.rank))
            from_all = {rank: to_all(here.agents_of(rank)) for rank in others}
            scatter = Mail(Kind.SLICE, dict.fromkeys(others, own), from_all, 4 * widest, device)
            firsts = {rank: named[:1] for rank, named in from_all.items()}
            spread = Mail(Kind.SLICE, dict.fromkeys(others, own[:1]), firsts, 4 * widest, device)
            self._mails[key] = scatter, spread
        return self._mails[key]
