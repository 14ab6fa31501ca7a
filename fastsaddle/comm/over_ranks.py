"""Gossip over processes: agents by their numbers, rows of others behind those here, the bits of one process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from fastsaddle.comm.base import AHEAD, Communicator, Exchange, LocalStep, local_models
from fastsaddle.comm.lists import Meeting
from fastsaddle.comm.stacked import StackedGossip
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.kernels.mix_update import mix_update
from fastsaddle.ranks.errors import PeerError
from fastsaddle.ranks.fingerprint import Agreement, agree
from fastsaddle.ranks.halo import Halo
from fastsaddle.ranks.header import HEAD, SIZE, Kind
from fastsaddle.ranks.mail import Mail, Memory
from fastsaddle.ranks.notes import Notes
from fastsaddle.ranks.peers import Peers
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.plan import Edge, Plan
from fastsaddle.ranks.transposition import Transposition

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer

LOG = logging.getLogger(__name__)


class OverRanks(Communicator):
    """What communicators over processes share: who is here, and means of all agents."""

    placement: Placement

    def _place(self, placement: Placement) -> None:
        """Called once, by the constructor."""
        self.placement = placement
        self.agents, self.first_agent = placement.agents, placement.first_agent
        self.everybody = Transposition(placement, is_regular=self.averages)

    @property
    def all_agents(self) -> int:
        return self.placement.all_agents

    @property
    def notes(self) -> Notes:
        """What ranks tell each other about failures."""
        return self.placement.notes

    def mean(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not x.shape[1]:
            return super().mean(x)
        return self.everybody.spread(x)

    def rows_of_all(self, x: torch.Tensor) -> torch.Tensor:
        return self.everybody.rows(x)

    def join(self, agreement: Agreement, steps: Callable[[], int]) -> None:
        self.notes.join(agreement, steps)

    def begin(self, optimizer: Optimizer) -> None:
        self.notes.check()
        self._next.begun += 1
        transport = self.placement.transport
        # a number whole, or by its place and value; scales
        row = SIZE + 12 * optimizer.rows.layout.stride * len(optimizer.rule.sends)
        transport.largest = max(transport.largest, self._rows_at_once * row)

    @property
    def _rows_at_once(self) -> int:
        """Rows that one peer sends in an exchange at most."""
        return max(self.placement.counts)

    def compare(
        self, cause: str, facts: Callable[[], Mapping[str, str]], together: bool = False
    ) -> None:
        (self.everybody.peers if together else self._next).change(cause)
        # of its own: texts are not what steps send, and their buffers are needed once
        agree(Transposition(self.placement).texts, facts())

    def look(self) -> None:
        for peers in {self._next, self.everybody.peers}:
            peers.look()

    @property
    def _next(self) -> Peers:
        """With whom a step's exchanges are."""
        return self.everybody.peers

    def is_anywhere(self, here: bool) -> bool:
        device = self.placement.transport.text_device
        told = torch.full((self.agents or 1,), here, dtype=torch.uint8, device=device)
        return bool(self.everybody.rows(told).any())

    def withdraw(self, error: BaseException) -> None:
        self._next.withdraw(error)

    @property
    def bytes_on_wire(self) -> int:
        """What has left this process, headers included."""
        return self.everybody.peers.bytes_on_wire


class Buffers:
    """What messages lie in, by what is sent.

    Args:
        plan: who sends which rows to whom.
        memory: of all rounds' graphs, whose exchanges follow each other.
    """

    def __init__(self, plan: Plan, memory: Memory) -> None:
        self._plan, self._memory = plan, memory
        self._halos: dict[tuple[int, torch.device, Kind], Halo] = {}
        self._edges: dict[tuple[int | None, int, torch.device], Mail] = {}

    def halo(self, columns: int, device: torch.device, kind: Kind = Kind.ROW) -> Halo:
        """Rows for whoever hears their agents."""
        key = (columns, device, kind)
        if key not in self._halos:
            self._halos[key] = Halo(self._plan, *key, self._memory)
        return self._halos[key]

    def edges(self, slot: int | None, nbytes: int, device: torch.device) -> Mail:
        """Rows of edges: of those whose end is neighbor number `slot` of their sender, or of all."""
        key = (slot, nbytes, device)
        if key not in self._edges:
            sent, heard = self._at(slot, self._plan.edges_out), self._at(slot, self._plan.edges_in)
            out, into = (
                self._memory.rows((slot, name), sum(map(len, way.values())), SIZE + nbytes, device)
                for name, way in (("out", sent), ("into", heard))
            )
            self._edges[key] = Mail(Kind.EDGE, sent, heard, nbytes, device, into, out)
        return self._edges[key]

    def _at(
        self, slot: int | None, edges: Mapping[int, Sequence[Edge]]
    ) -> Mapping[int, Sequence[Edge]]:
        if slot is None:
            return edges
        slot_of = self._plan.slot_of
        found = {peer: [e for e in its if slot_of(e) == slot] for peer, its in edges.items()}
        return {peer: its for peer, its in found.items() if its}


class RankGossip(OverRanks, StackedGossip):
    """Gossip along a graph, or graphs that change, whose agents are spread over processes.

    Each exchange is one batch of sends and receives, one buffer for each peer and direction, which holds every row once
    for a rank, however many agents there hear it. Receivers weigh, in the order of the whole graph's lists.

    Args:
        schedule: the whole graph, or which one each gossip has.
        placement: who holds which agents.
        consensus_step, every, rounds: as in `Gossip`.
        folded: whether gamma is folded into the weights.
        stacked: whether parameters are `[agents here, ...]`; otherwise they are ordinary ones of one agent.
        columns: as in `Topology.mixing_lists`.

    Raises:
        ValueError: gamma outside [0, 1], a graph of another size.
    """

    is_elementwise = False

    def __init__(
        self,
        schedule: Schedule,
        placement: Placement,
        consensus_step: float = 1.0,
        every: int = 1,
        rounds: int = 1,
        folded: bool = True,
        stacked: bool = True,
        columns: bool | None = None,
    ) -> None:
        if schedule.agents != placement.all_agents:
            raise ValueError(
                f"{schedule.name} has {schedule.agents} agents, but {placement.all_agents} are placed, "
                f"{list(placement.counts)} on {len(placement.counts)} ranks"
            )
        plan = Plan(schedule.union, placement.counts, placement.rank)
        super().__init__(schedule, consensus_step, every, rounds, False, folded, plan, columns)
        self._place(placement)
        self.stacked = stacked
        self.notes.hearers = plan.hearers
        self.peers = Peers(placement, plan.sends, plan.receives)
        self.plan = plan
        self._buffers: dict[Plan, Buffers] = {}
        self._memory = Memory()
        self._slots_sent: list[tuple[int, Mail, torch.dtype]] = []
        LOG.debug(
            "rank %d sends rows of agents %s, and hears %s, by rank",
            *(placement.rank, plan.sends, plan.receives),
        )

    @property
    def _rows_at_once(self) -> int:
        # each edge may have one
        assert self._plan is not None
        return max(super()._rows_at_once, *map(len, self._plan.edges_in.values()), 0)

    @property
    def heard(self) -> int:  # type: ignore[override]
        return len(self.plan.halo)

    @property
    def buffers(self) -> Buffers:
        """Those of the round that was last begun."""
        return self._buffers_of(self.plan)

    def meetings(self, optimizer: Optimizer) -> tuple[Meeting, ...]:
        found = super().meetings(optimizer)
        if found and not self.is_compressed:
            assert found[0].plan is not None
            self.plan = found[0].plan
        return found

    def _buffers_of(self, plan: Plan) -> Buffers:
        if plan not in self._buffers:
            if self._draws:
                # the graph before never comes again
                self._buffers.clear()
            self._buffers[plan] = Buffers(plan, self._memory)
        return self._buffers[plan]

    def _plan_in(self, exchange: Exchange) -> Plan:
        """That of one gossip."""
        meeting = exchange.meeting
        return self.plan if meeting is None or meeting.plan is None else meeting.plan

    @property
    def bytes_on_wire(self) -> int:
        return super().bytes_on_wire + self.peers.bytes_on_wire

    @property
    def _next(self) -> Peers:
        return self.peers

    def halo(self, x: torch.Tensor) -> torch.Tensor:
        return self._halo_in(self.plan, x)

    def _halo_in(self, plan: Plan, x: torch.Tensor) -> torch.Tensor:
        if not self.peers.who:
            return x
        halo = self._buffers_of(plan).halo(x.shape[1], x.device)
        halo.own.copy_(x)
        return halo.exchange(self.peers)

    def publish(self, x: torch.Tensor, exchange: Exchange) -> None:
        super().publish(x, exchange)
        ahead = self._arrived(x, exchange)
        exchange.heard = self._halo_in(self._plan_in(exchange), x) if ahead is None else ahead

    def copies(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        assert exchange.heard is not None
        return exchange.heard

    def mix_all(
        self, rows: tuple[torch.Tensor, ...], exchanges: list[Exchange]
    ) -> tuple[torch.Tensor, ...]:
        if self.is_compressed or self.rounds > 1 or len(rows) == 1:
            return super().mix_all(rows, exchanges)
        sent = [(x, e, self._arrived(x, e)) for x, e in zip(rows, exchanges, strict=True)]
        # one exchange of all the others, side by side
        others = [x for x, _, ahead in sent if ahead is None]
        heard: Iterator[torch.Tensor] = iter(())
        if others:
            together = self._halo_in(self._plan_in(exchanges[0]), torch.cat(others, 1))
            heard = iter(together.split([x.shape[1] for x in others], 1))
        for _, exchange, ahead in sent:
            exchange.count(exchange.messages_of(self))
            exchange.heard = next(heard) if ahead is None else ahead
        return tuple(self.pulled(x, e) for x, e in zip(rows, exchanges, strict=True))

    def send_ahead(self, rows: list[tuple[torch.Tensor, Exchange]]) -> None:
        if self.is_compressed or self.rounds > 1 or self._changing is not None:
            return
        if not (rows and self.peers.who):
            return
        widths = [x.shape[1] for x, _ in rows]
        halo = self.buffers.halo(sum(widths), rows[0][0].device, Kind.AHEAD)
        torch.cat([x for x, _ in rows], 1, out=halo.own)
        # the step is done; the next one raises what ended exchanges
        with suppress(PeerError):
            halo.begin(self.peers)
        for (_, exchange), part in zip(rows, halo.rows.split(widths, 1), strict=True):
            exchange.kept[AHEAD] = part

    def _arrived(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor | None:
        """Rows x and those heard, where they were sent when the step before ended; None where they are to be sent."""
        rows = exchange.kept.pop(AHEAD, None)
        if rows is None:
            return None
        self.placement.finish()
        # as whole numbers, as NaN equals nothing
        if not torch.equal(rows[: self.agents].view(torch.int32), x.view(torch.int32)):
            raise RuntimeError(
                'with overlap="auto" rows are sent when a step ends, and nothing but the next step may change them: '
                'got other values, for which fs.place(..., overlap="off") is made'
            )
        return rows

    def gossip_step_(self, x: torch.Tensor, step: LocalStep, exchange: Exchange) -> None:
        if self.rounds > 1 or not self.peers.who:
            super().gossip_step_(x, step, exchange)
            return
        halo = self._buffers_of(self._plan_in(exchange)).halo(x.shape[1], x.device)
        local_models(x, step, halo.own)
        h = halo.exchange(self.peers)
        exchange.count(exchange.messages_of(self))
        lists = self._lists_in(exchange, x.device)
        momentum = step.momentum if step.kind == 2 else None
        rates = (step.lr, step.mu, step.norm)
        mix_update(x, step.saved, h, momentum, lists.neighbors, lists.weights, *rates, *step.random)

    @property
    def arriving(self) -> tuple[tuple[int, int], ...]:
        plan = self.plan
        edges = (edge for from_peer in plan.edges_in.values() for edge in from_peer)
        return tuple((edge[0], plan.slot_of(edge)) for edge in edges)

    def deliver(self, rows: torch.Tensor) -> torch.Tensor:
        if not self.peers.who:
            return rows
        mail = self._delivered(rows.view(torch.uint8))
        return torch.cat([rows, mail.into.view(torch.float32)[:, HEAD:]])

    def deliver_bytes(self, rows: torch.Tensor) -> torch.Tensor:
        return self._delivered(rows).into[:, SIZE:] if self.peers.who else rows[:0]

    def send_slot(self, slot: int, rows: torch.Tensor) -> None:
        if not self.peers.who:
            return
        if slot == 0:
            self._slots_sent = []
        block = rows.contiguous().view(torch.uint8)
        mail = self.buffers.edges(slot, block.shape[1], block.device)
        for message, (agent, _) in zip(mail.out[:, SIZE:], mail.sent, strict=True):
            message.copy_(block[agent - self.first_agent])
        self.peers.begin(mail)
        self._slots_sent.append((slot, mail, rows.dtype))

    def slots_arrived(self) -> torch.Tensor | None:
        if not self._slots_sent:
            return None
        self.placement.finish()
        sent, self._slots_sent = self._slots_sent, []
        _, mail, dtype = sent[0]
        slots = [slot for _, slot in self.arriving]
        arrived = mail.into.new_empty(len(slots), mail.nbytes)
        for slot, mail, _ in sent:
            arrived[[row for row, its in enumerate(slots) if its == slot]] = mail.into[:, SIZE:]
        return arrived.view(dtype)

    def _delivered(self, rows: torch.Tensor) -> Mail:
        """The mail in which rows of bytes, blocks of one an agent, have gone along edges."""
        plan = self.plan
        mail = self.buffers.edges(None, rows.shape[1], rows.device)
        for message, edge in zip(mail.out[:, SIZE:], mail.sent, strict=True):
            message.copy_(rows[plan.slot_of(edge) * plan.agents + edge[0] - plan.first_agent])
        self.peers.exchange(mail)
        return mail
