"""What is made of all agents' rows, in their order, so that bits do not depend on who holds whom."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from fastsaddle.kernels.consensus import consensus
from fastsaddle.kernels.distance import distance
from fastsaddle.ranks.header import HEAD, SIZE, Kind
from fastsaddle.ranks.mail import Mail, Named, to_all
from fastsaddle.ranks.peers import Peers
from fastsaddle.ranks.placement import Placement

# columns are dealt out in blocks of so many
BLOCK = 32
# bytes of a message whose buffers are kept for the next one: those of all agents' models would double a rank's memory
MOST_KEPT = 4096


class Transposition:
    """Rows of all agents in their order: means of them, of which each rank sums columns of its own, or rows themselves.

    Args:
        placement: who holds which agents.
        is_regular: whether means are taken again and again, so that their buffers are kept.
    """

    def __init__(self, placement: Placement, is_regular: bool = False) -> None:
        others = [rank for rank in range(len(placement.counts)) if rank != placement.rank]
        self.placement, self.peers = placement, Peers(placement, others, others)
        self._is_regular = is_regular
        self._mails: dict[tuple[int, torch.device], tuple[Mail, Mail]] = {}
        self._whole: dict[tuple[int, torch.device | None], Mail] = {}

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """`[columns]` float32, of x `[agents here, columns]` float32; every rank must call it.

        Raises:
            PeerError: a rank did not.
        """
        here, (agents, columns) = self.placement, x.shape
        widths = self._widths(columns)
        widest, mine = max(widths), widths[here.rank]
        scatter, spread = self._mails_of(widest, x.device)
        numbers = scatter.out.view(torch.float32)[:, HEAD:]
        slices = x.split(widths, 1)
        others = [rank for rank in range(len(widths)) if rank != here.rank]
        for k, rank in enumerate(others):
            numbers[k * agents : (k + 1) * agents, : widths[rank]] = slices[rank]
        self.peers.exchange(scatter)
        arrived = scatter.into.view(torch.float32)[:, HEAD : HEAD + mine]
        first = here.first_agent
        # all agents' rows of these columns, in their order
        rows = torch.cat([arrived[:first], slices[here.rank], arrived[first:]])
        total = torch.zeros(widest, dtype=torch.float32, device=x.device)
        if mine:
            unused = torch.empty(len(rows), dtype=torch.float64, device=x.device)
            consensus(rows, total[:mine], unused)
        spread.out.view(torch.float32)[:, HEAD:] = total
        self.peers.exchange(spread)
        if not self._is_regular:
            # whoever wants it reads it
            self.peers.look()
        parts = list(spread.into.view(torch.float32)[:, HEAD:])
        parts.insert(here.rank, total)
        return torch.cat([part[:width] for part, width in zip(parts, widths, strict=True)])

    def spread(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean, and squared distances to it `[agents here]` float64, of x as `mean` takes it.

        Raises:
            PeerError: a rank did not call it.
        """
        mean = self.mean(x)
        squared_distance = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
        distance(x, mean, squared_distance)
        return mean, squared_distance

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """All agents' rows on every rank, `[all agents, ...]`, of x `[agents here, ...]`; every rank must call it.

        Raises:
            PeerError: a rank did not.
        """
        here = self.placement
        own = x.reshape(x.shape[0], prod(x.shape[1:])).contiguous().view(torch.uint8)
        key = (own.shape[1], x.device)
        mail = self._whole.get(key)
        if mail is None:
            named = to_all(here.agents_of(here.rank))
            receives = {rank: to_all(here.agents_of(rank)) for rank in self.peers.who}
            mail = self._same_to_all(Kind.ROW, named, receives, *key)
            if own.shape[1] <= MOST_KEPT:
                self._whole[key] = mail
        mail.out[:, SIZE:] = own
        self.peers.exchange(mail)
        # whoever wants them reads them
        self.peers.look()
        arrived, first = mail.into[:, SIZE:], here.first_agent
        rows = torch.cat([arrived[:first], own, arrived[first:]])
        return rows.view(-1).view(x.dtype).view(here.all_agents, *x.shape[1:])

    def texts(self, value: bytes) -> list[bytes]:
        """What every rank gives, in the order of ranks; every rank must call it.

        Raises:
            PeerError: a rank did not.
        """
        me = self.placement.rank
        sizes = self._of_ranks(8)
        sizes.out[:, SIZE:] = torch.tensor([len(value)], dtype=torch.int64, device="cpu").view(
            torch.uint8
        )
        self.peers.exchange(sizes)
        lengths = sizes.into[:, SIZE:].contiguous().view(torch.int64).flatten().tolist()
        lengths.insert(me, len(value))
        # few lengths, so that few buffers are kept
        mail = self._of_ranks(1 << max(max(lengths), 1).bit_length())
        mail.out[:, SIZE : SIZE + len(value)] = torch.tensor(
            list(value), dtype=torch.uint8, device="cpu"
        )
        self.peers.exchange(mail)
        found = [bytes(row.numpy()) for row in mail.into[:, SIZE:].cpu()]
        found.insert(me, value)
        return [text[:length] for text, length in zip(found, lengths, strict=True)]

    def _of_ranks(self, nbytes: int) -> Mail:
        """Messages of so many bytes, one for each other rank."""
        key = (nbytes, None)
        if key not in self._whole:
            # by ranks, as who holds which agents may be what they do not agree about
            receives = {rank: to_all([rank]) for rank in self.peers.who}
            device = self.placement.transport.text_device
            own = to_all([self.placement.rank])
            self._whole[key] = self._same_to_all(Kind.TEXT, own, receives, nbytes, device)
        return self._whole[key]

    def _same_to_all(
        self,
        kind: Kind,
        named: Sequence[tuple[int, int]],
        receives: Named,
        nbytes: int,
        device: torch.device,
    ) -> Mail:
        """Messages of which all others are sent the same."""
        out = torch.zeros(len(named), SIZE + nbytes, dtype=torch.uint8, device=device)
        sends = dict.fromkeys(self.peers.who, named)
        rows = dict.fromkeys(self.peers.who, slice(0, len(named)))
        return Mail(kind, sends, receives, nbytes, device, out=out, rows=rows)

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
            if not self._is_regular:
                return scatter, spread
            self._mails[key] = scatter, spread
        return self._mails[key]
