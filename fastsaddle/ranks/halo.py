"""Rows of the agents here and of those elsewhere that they hear, in one buffer that kernels read from."""

from __future__ import annotations

import torch

from fastsaddle.ranks.header import SIZE, Kind
from fastsaddle.ranks.mail import Mail, to_all
from fastsaddle.ranks.peers import Peers
from fastsaddle.ranks.plan import Plan

# columns that a header takes
HEAD = SIZE // 4


class Halo:
    """A buffer of so many columns, and the messages that fill its lower part.

    Args:
        plan: who sends which rows to whom.
        columns: of a row.
        device: where it lies.

    Attributes:
        rows: `[agents here + agents heard, columns]` float32.
        own: the first of them, the agents here.
    """

    def __init__(self, plan: Plan, columns: int, device: torch.device) -> None:
        count = plan.agents + len(plan.halo)
        buffer = torch.zeros(count, HEAD + columns, dtype=torch.float32, device=device)
        self.rows = buffer[:, HEAD:]
        self.own = self.rows[: plan.agents]
        sends = {peer: to_all(agents) for peer, agents in plan.sends.items()}
        receives = {peer: to_all(agents) for peer, agents in plan.receives.items()}
        into = buffer[plan.agents :].view(torch.uint8)
        self._mail = Mail(Kind.ROW, sends, receives, 4 * columns, device, into)
        out = self._mail.out.view(torch.float32)[:, HEAD:]
        sent = [i - plan.first_agent for agents in plan.sends.values() for i in agents]
        # each row that is sent, and its place in a message
        self._copied = [(self.own[i], message) for i, message in zip(sent, out, strict=True)]

    def exchange(self, peers: Peers) -> torch.Tensor:
        """Send the rows of `own` that others hear, and fill those heard; all rows."""
        for row, message in self._copied:
            message.copy_(row)
        peers.exchange(self._mail)
        return self.rows
