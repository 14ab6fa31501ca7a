"""Agents over processes: who holds which, who sends what to whom, and how it travels."""

from fastsaddle.ranks.errors import PeerError, TransportError
from fastsaddle.ranks.faulty_transport import FaultyTransport
from fastsaddle.ranks.placement import Placement, place
from fastsaddle.ranks.plan import Plan
from fastsaddle.ranks.thread_transport import ThreadTransport
from fastsaddle.ranks.torch_transport import TorchTransport
from fastsaddle.ranks.transport import Pending, Transport

__all__ = [
    "FaultyTransport",
    "PeerError",
    "Pending",
    "Placement",
    "Plan",
    "ThreadTransport",
    "TorchTransport",
    "Transport",
    "TransportError",
    "place",
]
