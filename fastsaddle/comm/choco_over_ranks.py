"""CHOCO gossip over processes: packed payloads travel, and every rank keeps public copies of all agents it hears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fastsaddle.comm.base import Exchange, LocalStep
from fastsaddle.comm.choco import ORDERS, Choco, CompressedGossip, Told, fused, settle
from fastsaddle.comm.over_ranks import RankGossip
from fastsaddle.compressors.base import Payload
from fastsaddle.graphs.faults import Faulty
from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.ranks.halo import Halo
from fastsaddle.ranks.header import Kind
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.plan import Plan


@dataclass(frozen=True)
class Coming:
    """Messages that are under way while gradients are taken.

    Attributes:
        told, exchanges: what was sent, by row buffer, and whose copies it moves.
        halo: where messages arrive.
    """

    told: list[Told]
    exchanges: list[Exchange]
    halo: Halo


def sizes_of(told: list[Told]) -> list[int]:
    """Bytes of an agent's message, by row buffer."""
    return [one.payload.nbytes // one.payload.shape[0] for one in told]


class CompressedRankGossip(CompressedGossip, RankGossip):
    """CHOCO gossip along a graph whose agents are spread over processes.

    One exchange for all rows that are sent at once: each agent's messages, packed, once for each rank that hears it,
    with 128 bytes of header. Receivers read them, and add the same values to the copies that owners add to theirs.

    Args:
        schedule: the whole graph, or which one each gossip has: messages go to the neighbors of any round.
        placement: who holds which agents.
        consensus_step: gamma, in [0, 1].
        choco: compressor, order and options.
        every, rounds: as in `Gossip`.
        stacked: whether parameters are `[agents here, ...]`; otherwise they are ordinary ones of one agent.

    Raises:
        ValueError: gamma outside [0, 1], a graph of another size.
    """

    def __init__(
        self,
        schedule: Schedule,
        placement: Placement,
        consensus_step: float,
        choco: Choco,
        every: int = 1,
        rounds: int = 1,
        stacked: bool = True,
    ) -> None:
        often = (every, rounds)
        RankGossip.__init__(self, schedule, placement, consensus_step, *often, False, stacked)
        self._compress(choco, None if self.peers.who else fused(choco))
        self._coming: Coming | None = None

    def plan_of(self, graph: Topology) -> Plan:
        # public copies are those of all that are ever heard
        return replace(self.plan, mixes=graph)

    @property
    def holds(self) -> Sequence[int]:
        return (*self.plan.own, *self.plan.halo)

    def kept_here(self, agents: int) -> list[int]:
        return list(self.holds)

    def mix(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        return self.mix_all((x,), [exchange])[0]

    def mix_all(
        self, rows: tuple[torch.Tensor, ...], exchanges: list[Exchange]
    ) -> tuple[torch.Tensor, ...]:
        for k in range(self.rounds):
            self.catch_up()
            now = [self._round(exchange, k) for exchange in exchanges]
            if self.choco.order == ORDERS[0]:
                self._publish_all(rows, now)
            rows = tuple(self.pulled(x, e) for x, e in zip(rows, now, strict=True))
            if self.choco.order == ORDERS[1]:
                self._publish_all(rows, now)
            for exchange, one in zip(exchanges, now, strict=True):
                if one is not exchange:
                    exchange.nbytes += one.nbytes
        return rows

    def publish(self, x: torch.Tensor, exchange: Exchange) -> None:
        self._publish_all((x,), [exchange])

    def gossip_step_(self, x: torch.Tensor, step: LocalStep, exchange: Exchange) -> None:
        is_split = (
            self.peers.who and self.choco.order == ORDERS[0] and fused(self.choco) is not None
        )
        if not is_split or self.rounds > 1 or not self._draws_alike(step):
            super().gossip_step_(x, step, exchange)
            return
        now = self._round(exchange, 0)
        aside = self._aside(x, step, exchange)
        self._publish_all((x,), [now], aside)
        settle(step, aside)
        self._mix_copies(x, now.memory("h", x.shape), now, step)
        if now is not exchange:
            exchange.nbytes += now.nbytes

    def _publish_all(
        self,
        rows: tuple[torch.Tensor, ...],
        exchanges: list[Exchange],
        step: LocalStep | None = None,
    ) -> None:
        """`publish` of several row buffers in one exchange, or of a single one after its local step.

        All are encoded before anything is sent, and no copy moves before all has come: whatever fails changes nothing.
        With overlap copies of the agents here move at once, and those of others when they are asked for.
        """
        self.catch_up()
        places = self._places(exchanges)
        told = [
            self._encoded(x, exchange, messages, step)
            for x, exchange, messages in zip(rows, exchanges, places, strict=True)
        ]
        sent: Sequence[tuple[Payload, ...] | None] = [None] * len(told)
        if self.peers.who:
            halo = self._filled(told)
            if self._waits_later(exchanges):
                halo.begin(self.peers)
                self._coming = Coming(told, exchanges, halo)
            else:
                halo.exchange(self.peers)
                arrived = halo.rows.split(sizes_of(told), 1)
                sent = [self._read(one, rows) for one, rows in zip(told, arrived, strict=True)]
        for exchange, one, payloads in zip(exchanges, told, sent, strict=True):
            self._move_copies(exchange, one, payloads)

    def _waits_later(self, exchanges: list[Exchange]) -> bool:
        """Whether what others send is not needed before the next step mixes, and may come until then."""
        return (
            self.overlaps
            and self.choco.order == ORDERS[1]
            and not self.choco.running_sum
            and exchanges[0].states["x_hat"].dtype == torch.float32
            and not self._leaves_out(exchanges[0])
        )

    def _leaves_out(self, exchange: Exchange) -> bool:
        """Whether somebody is down, whose copies are put back when the step ends."""
        schedule, meeting = self.schedule, exchange.meeting
        if meeting is None or not isinstance(schedule, Faulty) or not schedule.loses_agents:
            return False
        return bool(schedule.down(int(meeting.number)).any())

    def catch_up(self) -> None:
        coming, self._coming = self._coming, None
        if coming is None:
            return
        self.placement.finish()
        heard = coming.halo.heard.split(sizes_of(coming.told), 1)
        for exchange, told, rows in zip(coming.exchanges, coming.told, heard, strict=True):
            copies = exchange.halo_of("x_hat")
            payload = self._read_heard(told, rows)
            self.choco.compressor.decode_add_(payload, copies[self.agents :])

    def _pull(self, exchange: Exchange) -> torch.Tensor:
        self.catch_up()
        return super()._pull(exchange)

    def copies(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        self.catch_up()
        return super().copies(x, exchange)

    def _places(self, exchanges: list[Exchange]) -> Sequence[torch.Tensor | None]:
        """Where messages of each row buffer will lie, where that is known before they are encoded."""
        quantizer = fused(self.choco)
        if quantizer is None or not self.peers.who:
            return [None] * len(exchanges)
        sizes = [quantizer.message_bytes(exchange.layout) for exchange in exchanges]
        return self.buffers.halo(sum(sizes), exchanges[0].squares.device, Kind.PAYLOAD).own.split(
            sizes, 1
        )

    def _filled(self, told: list[Told]) -> Halo:
        """Messages of the agents here, ready to be sent in one exchange."""
        sizes = sizes_of(told)
        device = next(iter(told[0].payload.parts.values())).device
        halo = self.buffers.halo(sum(sizes), device, Kind.PAYLOAD)
        for one, messages in zip(told, halo.own.split(sizes, 1), strict=True):
            if not one.lies_in_messages:
                one.payload.packed(messages)
        return halo

    def _read(self, told: Told, messages: torch.Tensor) -> tuple[Payload, ...]:
        """What messages of all agents say whose copies are kept here."""
        everyone = self._in_messages(told, messages)
        if everyone is not None:
            # one pass for all of them
            return (everyone,)
        return told.payload, self._read_heard(told, messages[self.agents :])

    def _read_heard(self, told: Told, messages: torch.Tensor) -> Payload:
        """What messages of the agents elsewhere say."""
        heard = self._in_messages(told, messages)
        if heard is not None:
            return heard
        return Payload.unpacked(messages, told.payload, self.plan.halo)

    def _in_messages(self, told: Told, messages: torch.Tensor) -> Payload | None:
        """Messages as they are, where codes lie in them as a payload has them."""
        quantizer, layout = fused(self.choco), told.payload.layout
        if not told.lies_in_messages or quantizer is None or layout is None:
            return None
        return quantizer.in_messages(messages, layout)

    def _may_fail(self, device: torch.device) -> bool:
        # and elsewhere
        return bool(self.peers.who) or super()._may_fail(device)

    def resume(self, exchanges: list[Exchange]) -> None:
        self.catch_up()
        copies = [exchange.halo_of("x_hat") for exchange in exchanges]
        own = torch.cat([rows[: self.agents].float() for rows in copies], 1)
        # once, so that its memory is not kept
        halo = Halo(self.plan, own.shape[1], own.device)
        halo.own.copy_(own)
        heard = halo.exchange(self.peers)[self.agents :].split([r.shape[1] for r in copies], 1)
        for rows, part in zip(copies, heard, strict=True):
            rows[self.agents :] = part
