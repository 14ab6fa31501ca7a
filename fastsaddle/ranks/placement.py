"""Which rank holds which agents."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

import torch.distributed as dist

from fastsaddle.optimizer.hyperparameters import is_number, is_whole
from fastsaddle.ranks.counts import agents_of, owner_of
from fastsaddle.ranks.notes import Notes
from fastsaddle.ranks.torch_transport import TIMEOUT, TorchTransport
from fastsaddle.ranks.transport import Transport

if TYPE_CHECKING:
    from fastsaddle.ranks.peers import Peers

LOG = logging.getLogger(__name__)

Overlap = Literal["off", "auto"]


@dataclass(frozen=True, eq=False)
class Placement:
    """Which rank holds which agents; made by `fs.place`.

    Agents are numbered through all ranks: the first rank holds the first ones.

    Args:
        counts: number of agents of each rank, >= 1.
        transport: what carries messages between ranks.
        overlap: "off" or "auto", see `fs.place`.

    Raises:
        ValueError: not one count for each rank, a count below 1, or another `overlap`.

    Example:
        >>> import fastsaddle as fs
        >>> ends = fs.ranks.ThreadTransport.group(2)
        >>> placement = fs.Placement((3, 1), ends[1])
        >>> placement.agents, placement.first_agent, placement.owner(0)
        (1, 3, 0)
    """

    counts: tuple[int, ...]
    transport: Transport
    overlap: Overlap = "off"

    def __post_init__(self) -> None:
        if len(self.counts) != self.transport.size:
            raise ValueError(
                f"counts must be one for each of {self.transport.size} ranks, got {list(self.counts)}"
            )
        if not all(is_whole(count) and count >= 1 for count in self.counts):
            raise ValueError(f"each rank must hold at least one agent, got {list(self.counts)}")
        check_overlap(self.overlap)
        LOG.info(
            "rank %d of %d holds agents %d to %d of %d, overlap %s",
            self.rank,
            self.transport.size,
            self.first_agent,
            self.first_agent + self.agents - 1,
            self.all_agents,
            self.overlap,
        )

    @cached_property
    def under_way(self) -> list[Peers]:
        """The exchange that has begun and is not finished, as a list of at most one."""
        return []

    def finish(self) -> None:
        """Wait for the exchange that is under way, if there is one.

        Raises:
            PeerError: another rank failed.
        """
        for peers in [*self.under_way]:
            peers.finish()

    @cached_property
    def notes(self) -> Notes:
        """What ranks tell each other about failures. After a failure nothing goes on over this placement."""
        return Notes(self)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.transport.rank

    @property
    def agents(self) -> int:
        """Number of agents in this process."""
        return self.counts[self.rank]

    @property
    def all_agents(self) -> int:
        """Number of agents in all processes."""
        return sum(self.counts)

    @property
    def first_agent(self) -> int:
        """Number of the first agent in this process."""
        return agents_of(self.counts, self.rank).start

    def agents_of(self, rank: int) -> range:
        """Numbers of the agents of a rank.

        Args:
            rank: number of the rank.
        """
        return agents_of(self.counts, rank)

    def owner(self, agent: int) -> int:
        """The rank that holds an agent.

        Args:
            agent: number of the agent.
        """
        return owner_of(self.counts, agent)

    def __deepcopy__(self, memo: dict[int, Any]) -> Placement:
        # connections cannot be copied
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "what runs over processes cannot be pickled, as connections cannot: save state_dict() instead"
        )

    def __copy__(self) -> Placement:
        return self

    def __repr__(self) -> str:
        return f"Placement({list(self.counts)}, rank={self.rank})"


def place(
    agents: int | None = None,
    process_group: Any = None,
    *,
    counts: Sequence[int] | None = None,
    timeout: timedelta | float = TIMEOUT,
    overlap: Overlap = "off",
) -> Placement:
    """Spread agents over the processes of a group, which `torch.distributed` must have made.

    The bits of a run do not depend on the placement: it may go on with other counts, or on another number of ranks.

    Args:
        agents: number of agents in all; ranks get equally many, and the first ranks one more if that does not work out.
            None is one for each rank, or the sum of `counts`.
        process_group: a `torch.distributed.ProcessGroup`, a `DeviceMesh` of one dimension, or None for all processes.
        counts: number of agents of each rank, in place of an even split.
        timeout: how long a message may take: a timedelta, or seconds; 120 s by default.
        overlap: "off": a step waits for its messages. "auto" sends what does not depend on the gradients while they are
            taken, with the same bits: the rows of gradient tracking, Push-Pull's tracked row, the models of momentum
            tracking and of rules that mix first, cross-gradients one neighbor after the other, and CHOCO's codes where
            it mixes first. Nothing else may then change parameters between steps. Methods that send what a step has
            just made (DSGD, QGM, SADDLe) have nothing to overlap.

    Returns:
        The placement, to be passed to `fs.AgentStack` and to the optimizer as `placement=`.

    Raises:
        RuntimeError: torch.distributed has not been initialized.
        ValueError: fewer agents than ranks, counts that are not one for each rank or do not add up, a timeout that is
            not positive, or anything of another type.

    Example:
        >>> import torch.distributed as dist
        >>> import fastsaddle as fs
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> fs.place(agents=4)
        Placement([4], rank=0)
        >>> dist.destroy_process_group()
    """
    check_counts(agents, counts)
    check_overlap(overlap)
    transport = TorchTransport(group_of(process_group), duration_of(timeout))
    return Placement(counts_of(agents, counts, transport.size), transport, overlap)


def placed(placement: Placement | None, process_group: Any) -> Placement | None:
    """What an optimizer's `placement=` and `process_group=` mean; raises ValueError where both are given."""
    if process_group is None:
        if placement is not None and not isinstance(placement, Placement):
            raise ValueError(f"placement must be an fs.place(...), or None, got {placement!r}")
        return placement
    if placement is not None:
        raise ValueError(
            "process_group is short for placement=fs.place(process_group=...), got both"
        )
    return place(process_group=process_group)


def check_overlap(overlap: Overlap) -> None:
    """Raise ValueError for another than those that `place` knows."""
    if overlap not in get_args(Overlap):
        raise ValueError(f'overlap must be "off" or "auto", got {overlap!r}')


def check_counts(agents: int | None, counts: Sequence[int] | None) -> None:
    """Raise ValueError for what are not numbers of agents."""
    if agents is not None and not is_whole(agents):
        raise ValueError(f"agents must be a whole number or None, got {agents!r}")
    if counts is not None and not (isinstance(counts, Iterable) and all(map(is_whole, counts))):
        raise ValueError(f"counts must be one whole number for each rank, or None, got {counts!r}")


def duration_of(timeout: timedelta | float) -> timedelta:
    """What `timeout=` means; raises ValueError where it is not positive, or neither a timedelta nor a number."""
    if (
        not isinstance(timeout, timedelta)
        and is_number(timeout)
        and 0 < timeout < timedelta.max.total_seconds()
    ):
        timeout = timedelta(seconds=float(timeout))
    if not isinstance(timeout, timedelta) or timeout <= timedelta(0):
        raise ValueError(
            f"timeout must be positive, a timedelta or a number of seconds, got {timeout!r}"
        )
    return timeout


def counts_of(agents: int | None, counts: Sequence[int] | None, ranks: int) -> tuple[int, ...]:
    """Agents of each rank, see `place`; raises ValueError."""
    if counts is not None:
        counts = tuple(counts)
        if agents is not None and sum(counts) != agents:
            raise ValueError(f"counts must add up to {agents} agents, got {list(counts)}")
        return counts
    agents = ranks if agents is None else agents
    if not is_whole(agents) or agents < ranks:
        raise ValueError(
            f"each of {ranks} ranks must hold at least one agent, got {agents} agents: "
            f"start at most {agents} processes"
        )
    each, more = divmod(agents, ranks)
    return tuple(each + (rank < more) for rank in range(ranks))


def group_of(given: Any) -> dist.ProcessGroup | None:
    """What `process_group=` means; raises ValueError for a mesh of several dimensions."""
    if given is None or isinstance(given, dist.ProcessGroup):
        return given
    if hasattr(given, "get_group") and hasattr(given, "ndim"):
        if given.ndim != 1:
            raise ValueError(
                f"a DeviceMesh must have one dimension, got {given.ndim}: take mesh[name] of the agents'"
            )
        found: dist.ProcessGroup = given.get_group()
        return found
    raise ValueError(
        f"process_group must be a torch.distributed.ProcessGroup or a DeviceMesh, got {given!r}"
    )


def is_stack(leading: int | None, placement: Placement) -> bool:
    """Whether parameters with `leading` rows are those of a stack of the agents here, or one agent's ordinary ones.

    Raises:
        ValueError: they are neither.
    """
    if leading == placement.agents:
        return True
    if placement.agents == 1:
        return False
    raise ValueError(
        f"parameters must be stacked as [{placement.agents}, ...] for the agents of this rank, as those of "
        f"fs.AgentStack(model, placement) are, got {'none in common' if leading is None else leading} "
        f"as their first dimension ({placement})"
    )
