"""CHOCO gossip over processes: packed payloads travel, and every rank keeps public copies of all agents it hears."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastsaddle.comm.base import Exchange
from fastsaddle.comm.choco import ORDERS, Choco, CompressedGossip, fused
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
        self._payloads: dict[tuple[int, torch.device], Halo] = {}

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

    def _publish_all(self, rows: tuple[torch.Tensor, ...], exchanges: list[Exchange]) -> None:
        """`publish` of several row buffers in one exchange; all are encoded before anything moves."""
        told = [self._encoded(x, exchange) for x, exchange in zip(rows, exchanges, strict=True)]
        if not self.peers.who:
            for x, exchange, one in zip(rows, exchanges, told, strict=True):
                self._move_copies(x, exchange, *one)
            return
        sent = [payload.packed() for _, payload in told]
        arrived = self._exchanged(torch.cat(sent, 1)).split([p.shape[1] for p in sent], 1)
        sent_rows = zip(rows, exchanges, told, arrived, strict=True)
        for x, exchange, (difference, payload), part in sent_rows:
            heard = Payload.unpacked(part, payload, self.plan.halo)
            self._move_copies(x, exchange, difference, payload, heard)

    def _exchanged(self, packed: torch.Tensor) -> torch.Tensor:
        """Send messages of the agents here, uint8 `[agents, bytes]`; those of the agents heard, `[heard, bytes]`."""
        key = (packed.shape[1], packed.device)
        if key not in self._payloads:
            self._payloads[key] = Halo(self.plan, *key, Kind.PAYLOAD)
        halo = self._payloads[key]
        halo.own.copy_(packed)
        halo.exchange(self.peers)
        return halo.heard

    def resume(self, exchanges: list[Exchange]) -> None:
        copies = [exchange.halo_of("x_hat") for exchange in exchanges]
        own = torch.cat([rows[: self.agents].float() for rows in copies], 1)
        # once, so that its memory is not kept
        halo = Halo(self.plan, own.shape[1], own.device)
        halo.own.copy_(own)
        heard = halo.exchange(self.peers)[self.agents :].split([r.shape[1] for r in copies], 1)
        for rows, part in zip(copies, heard, strict=True):
            rows[self.agents :] = part
