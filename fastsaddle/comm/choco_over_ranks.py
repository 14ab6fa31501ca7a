"""CHOCO gossip over processes: packed payloads travel, and every rank keeps public copies of all agents it hears."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastsaddle.comm.base import Exchange, LocalStep
from fastsaddle.comm.choco import ORDERS, Choco, CompressedGossip, Told, fused, settle
from fastsaddle.comm.over_ranks import RankGossip
from fastsaddle.compressors.base import Payload
from fastsaddle.graphs.topology import Topology
from fastsaddle.ranks.halo import Halo
from fastsaddle.ranks.header import Kind
from fastsaddle.ranks.placement import Placement


class CompressedRankGossip(CompressedGossip, RankGossip):
    """CHOCO gossip along a graph whose agents are spread over processes.

    One exchange for all rows that are sent at once: each agent's messages, packed, once for each rank that hears it,
    with 128 bytes of header. Receivers read them, and add the same values to the copies that owners add to theirs.

    Args:
        topology: the whole graph.
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
        topology: Topology,
        placement: Placement,
        consensus_step: float,
        choco: Choco,
        every: int = 1,
        rounds: int = 1,
        stacked: bool = True,
    ) -> None:
        often = (every, rounds)
        RankGossip.__init__(self, topology, placement, consensus_step, *often, False, stacked)
        self._compress(choco, None if self.peers.who else fused(choco))

    @property
    def holds(self) -> Sequence[int]:
        return (*self.plan.own, *self.plan.halo)

    def mix(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        return self.mix_all((x,), [exchange])[0]

    def mix_all(
        self, rows: tuple[torch.Tensor, ...], exchanges: list[Exchange]
    ) -> tuple[torch.Tensor, ...]:
        for k in range(self.rounds):
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
        """
        places = self._places(exchanges)
        told = [
            self._encoded(x, exchange, messages, step)
            for x, exchange, messages in zip(rows, exchanges, places, strict=True)
        ]
        sent = self._exchanged(told)
        for exchange, one, payloads in zip(exchanges, told, sent, strict=True):
            self._move_copies(exchange, one, payloads)

    def _places(self, exchanges: list[Exchange]) -> Sequence[torch.Tensor | None]:
        """Where messages of each row buffer will lie, where that is known before they are encoded."""
        quantizer = fused(self.choco)
        if quantizer is None or not self.peers.who:
            return [None] * len(exchanges)
        sizes = [quantizer.message_bytes(exchange.layout) for exchange in exchanges]
        device = exchanges[0].squares.device
        return self._halo_of(sum(sizes), device, Kind.PAYLOAD).own.split(sizes, 1)

    def _exchanged(self, told: list[Told]) -> list[tuple[Payload, ...]]:
        """Send messages of the agents here, in one exchange; theirs, then those of the agents heard, by row buffer."""
        if not self.peers.who:
            return [(one.payload,) for one in told]
        payloads = [one.payload for one in told]
        sizes = [payload.nbytes // payload.shape[0] for payload in payloads]
        device = next(iter(payloads[0].parts.values())).device
        halo = self._halo_of(sum(sizes), device, Kind.PAYLOAD)
        for one, messages in zip(told, halo.own.split(sizes, 1), strict=True):
            if not one.lies_in_messages:
                one.payload.packed(messages)
        halo.exchange(self.peers)
        arrived = zip(told, halo.rows.split(sizes, 1), strict=True)
        return [self._read(one, messages) for one, messages in arrived]

    def _read(self, told: Told, messages: torch.Tensor) -> tuple[Payload, ...]:
        """What messages of all agents say whose copies are kept here."""
        quantizer, payload = fused(self.choco), told.payload
        if told.lies_in_messages and quantizer is not None and payload.layout is not None:
            everyone = quantizer.in_messages(messages, payload.layout)
            if everyone is not None:
                return (everyone,)
        return payload, Payload.unpacked(messages[self.agents :], payload, self.plan.halo)

    def _may_fail(self, device: torch.device) -> bool:
        # and elsewhere
        return bool(self.peers.who) or super()._may_fail(device)

    def resume(self, exchanges: list[Exchange]) -> None:
        copies = [exchange.halo_of("x_hat") for exchange in exchanges]
        own = torch.cat([rows[: self.agents].float() for rows in copies], 1)
        # once, so that its memory is not kept
        halo = Halo(self.plan, own.shape[1], own.device)
        halo.own.copy_(own)
        heard = halo.exchange(self.peers)[self.agents :].split([r.shape[1] for r in copies], 1)
        for rows, part in zip(copies, heard, strict=True):
            rows[self.agents :] = part
