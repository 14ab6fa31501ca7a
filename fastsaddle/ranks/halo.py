"""Rows of the agents here and of those elsewhere that they hear, in one buffer that kernels read from."""

from __future__ import annotations

import torch

from fastsaddle.ranks.header import SIZE, Kind
from fastsaddle.ranks.mail import Mail, Memory, to_all
from fastsaddle.ranks.peers import Peers
from fastsaddle.ranks.plan import Plan


class Halo:
    """A buffer of so many columns, and the messages that fill its lower part.

    Rows are sent from where they lie, a header before each of them. They are only copied for a peer that hears
    agents whose rows do not follow each other.

    Args:
        plan: who sends which rows to whom.
        columns: of a row.
        device: where it lies.
        kind: what rows are: float32, or the bytes of `Kind.PAYLOAD`.
        memory: where the buffer lies, together with those of other plans; None: in memory of its own.

    Attributes:
        rows: `[agents here + agents heard, columns]`.
        own, heard: the first of them, the agents here, and the others.
    """

    def __init__(
        self,
        plan: Plan,
        columns: int,
        device: torch.device,
        kind: Kind = Kind.ROW,
        memory: Memory | None = None,
    ) -> None:
        dtype = torch.uint8 if kind == Kind.PAYLOAD else torch.float32
        sent = {peer: [i - plan.first_agent for i in agents] for peer, agents in plan.sends.items()}
        apart = {peer: mine for peer, mine in sent.items() if mine[-1] - mine[0] >= len(mine)}
        first, width = sum(map(len, apart.values())), SIZE + columns * dtype.itemsize
        # copies, then the agents here, then those heard
        count = first + plan.agents + len(plan.halo)
        buffer = (memory or Memory()).rows(kind, count, width, device)
        typed = buffer.view(dtype)[:, SIZE // dtype.itemsize :]
        self.rows = typed[first:]
        self.own, self.heard = self.rows.tensor_split([plan.agents])
        taken = {peer: slice(first + mine[0], first + mine[-1] + 1) for peer, mine in sent.items()}
        end = 0
        for peer, mine in apart.items():
            taken[peer] = slice(end, end := end + len(mine))
        # each row that is copied, and where to
        into = [self.own[i] for mine in apart.values() for i in mine]
        self._copied = list(zip(into, typed[:first], strict=True))
        self._mail = Mail(
            kind,
            {peer: to_all(agents) for peer, agents in plan.sends.items()},
            {peer: to_all(agents) for peer, agents in plan.receives.items()},
            width - SIZE,
            device,
            into=buffer[first + plan.agents :],
            out=buffer[: first + plan.agents],
            rows=taken,
        )

    def exchange(self, peers: Peers) -> torch.Tensor:
        """Send the rows of `own` that others hear, and fill those heard; all rows."""
        self.begin(peers)
        peers.finish()
        return self.rows

    def begin(self, peers: Peers) -> None:
        """The first half of `exchange`, which `peers.finish` ends."""
        for row, copy in self._copied:
            copy.copy_(row)
        peers.begin(self._mail)
