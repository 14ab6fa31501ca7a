"""Decentralized, sharpness-aware deep learning: many agents, one graph, fused kernels, a drop-in optimizer."""

from fastsaddle import _checkout  # noqa: F401, I001  (first: finds the ops where the link is lost)
from fastsaddle import compressors
from fastsaddle.graphs import topology
from fastsaddle.agents import AgentStack
from fastsaddle.algorithms.d2 import D2
from fastsaddle.algorithms.dppf import DPPF
from fastsaddle.algorithms.dsgd import DSGD, DSGDm
from fastsaddle.algorithms.easgd import EASGD
from fastsaddle.algorithms.gradient_tracking import GradientTracking
from fastsaddle.algorithms.gut import GUT
from fastsaddle.algorithms.local_sgd import LocalSGD
from fastsaddle.algorithms.momentum_tracking import MomentumTracking
from fastsaddle.algorithms.ngm import NGM
from fastsaddle.algorithms.nsaddle import NSADDLe
from fastsaddle.algorithms.qg_adam import QGAdam
from fastsaddle.algorithms.qgm import QGM
from fastsaddle.algorithms.relay import RelaySGD
from fastsaddle.algorithms.saddle import DSADDLe, QSADDLe
from fastsaddle.gradients.ascents import ESAM, LookSAM, MomentumSAM, sharpest
from fastsaddle.gradients.second_pass import second_pass
from fastsaddle.comm.choco import Choco
from fastsaddle.kernels.op import use_backend
from fastsaddle.comm.period import QSR
from fastsaddle.optimizer.stacked_optimizer import NonFiniteGradientError
from fastsaddle.graphs.topology import Topology

__version__ = "0.1.0"

__all__ = [
    "D2",
    "DPPF",
    "DSGD",
    "EASGD",
    "ESAM",
    "GUT",
    "NGM",
    "QGM",
    "QSR",
    "AgentStack",
    "Choco",
    "DSADDLe",
    "DSGDm",
    "GradientTracking",
    "LocalSGD",
    "LookSAM",
    "MomentumSAM",
    "MomentumTracking",
    "NSADDLe",
    "NonFiniteGradientError",
    "QGAdam",
    "QSADDLe",
    "RelaySGD",
    "Topology",
    "compressors",
    "second_pass",
    "sharpest",
    "topology",
    "use_backend",
]
