"""How rows travel between agents: gossip along a graph, compressed or whole, and averages of all."""

from fastsaddle.comm.average import Average, Elastic
from fastsaddle.comm.base import Communicator, Exchange, LocalStep, Round
from fastsaddle.comm.choco import Choco
from fastsaddle.comm.gossip import Gossip
from fastsaddle.comm.lists import Lists
from fastsaddle.comm.period import QSR
from fastsaddle.comm.push_pull import PushPull

__all__ = [
    "QSR",
    "Average",
    "Choco",
    "Communicator",
    "Elastic",
    "Exchange",
    "Gossip",
    "Lists",
    "LocalStep",
    "PushPull",
    "Round",
]
