"""Decentralized, sharpness-aware deep learning: many agents, one graph, fused kernels, a drop-in optimizer."""

from fastsaddle import _checkout  # noqa: F401, I001  (first: finds the rooms where the link is lost)
from fastsaddle import compressors, topology
from fastsaddle.agents import AgentStack
from fastsaddle.algorithms.dsgd import DSGD, DSGDm
from fastsaddle.algorithms.qgm import QGM
from fastsaddle.algorithms.saddle import DSADDLe, QSADDLe
from fastsaddle.batch_norm import second_pass
from fastsaddle.comm.choco import Choco
from fastsaddle.kernels._op import use_backend
from fastsaddle.optimizer import NonFiniteGradientError
from fastsaddle.topology import Topology

__version__ = "0.1.0"

__all__ = [
    "DSGD",
    "QGM",
    "AgentStack",
    "Choco",
    "DSADDLe",
    "DSGDm",
    "NonFiniteGradientError",
    "QSADDLe",
    "Topology",
    "compressors",
    "second_pass",
    "topology",
    "use_backend",
]
