"""What can go wrong between processes."""


class TransportError(RuntimeError):
    """A message to or from one peer did not arrive.

    Attributes:
        peer: the rank at the other end; -1 where it is not known.
        cause: what the transport said.
    """

    def __init__(self, peer: int, cause: str) -> None:
        super().__init__(f"rank {peer}: {cause}" if peer >= 0 else cause)
        self.peer, self.cause = peer, cause


class PeerError(RuntimeError):
    """A step over several processes ended because one of them failed; its optimizer takes no further step.

    Parameters are as they were before the step; local momentum and public copies may have moved. Go on from a
    checkpoint.

    Attributes:
        rank: which failed first, as far as is known.
        agents: numbers of the agents that it holds.
        step: exchanges that were done before.
        cause: what happened there.
        noticed_by: the rank that noticed it first.
    """

    def __init__(self, rank: int, agents: range, step: int, cause: str, noticed_by: int) -> None:
        self.rank, self.agents, self.step = rank, agents, step
        self.cause, self.noticed_by = cause, noticed_by
        super().__init__(
            f"exchange {step}: nothing from {named(agents)} (rank {rank}): {cause}; "
            f"noticed by rank {noticed_by}"
        )

    def __reduce__(self) -> tuple[type, tuple[int, range, int, str, int]]:
        return type(self), (self.rank, self.agents, self.step, self.cause, self.noticed_by)


def named(agents: range) -> str:
    """Agents in words, such as "agent 7" or "agents 4 to 7"."""
    if len(agents) == 1:
        return f"agent {agents[0]}"
    return f"agents {agents[0]} to {agents[-1]}" if agents else "no agent"
