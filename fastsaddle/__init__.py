"""Decentralized, sharpness-aware deep learning: many agents, one graph, fused kernels, a drop-in optimizer."""

from importlib import import_module  # noqa: I001  (_checkout finds the kernels where the link is lost)
from typing import TYPE_CHECKING, Any

from fastsaddle import _checkout, _logs  # noqa: F401
from fastsaddle import (
    comm,
    compressors,
    gradients,
    integrations,
    metrics,
    ranks,
    rules,
    sharpness,
)
from fastsaddle.agents import AgentStack
from fastsaddle.comm.choco import Choco
from fastsaddle.comm.period import QSR
from fastsaddle.gradients.ascents import ESAM, LookSAM, MomentumSAM, sharpest
from fastsaddle.gradients.second_pass import second_pass
from fastsaddle.graphs import topology
from fastsaddle.graphs.faults import Faults
from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.kernels.op import ops, use_backend
from fastsaddle.methods.averaging import DPPF, EASGD, LocalSGD
from fastsaddle.methods.d2 import D2
from fastsaddle.methods.dsgd import DSGD, DSGDm
from fastsaddle.methods.gut import GUT
from fastsaddle.methods.ngm import NGM, NSADDLe
from fastsaddle.methods.push_pull import PushPull
from fastsaddle.methods.qg_adam import QGAdam
from fastsaddle.methods.qgm import QGM
from fastsaddle.methods.relay import RelaySGD
from fastsaddle.methods.saddle import DSADDLe, QSADDLe
from fastsaddle.methods.tracking import GradientTracking, MomentumTracking
from fastsaddle.optimizer.errors import NonFiniteGradientError
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.ranks.errors import PeerError
from fastsaddle.ranks.placement import Placement, place

if TYPE_CHECKING:
    from fastsaddle import sim

    # type checkers take its ops for their folders
    kernels: Any
else:
    from fastsaddle import kernels

    # fastsaddle.kernels.<op> is the op, not its folder
    vars(kernels).update(ops(), __all__=sorted(ops()))

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    # the simulator, loaded when it is first asked for
    if name == "sim":
        return import_module("fastsaddle.sim")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "sim"})


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
    "Faults",
    "GradientTracking",
    "LocalSGD",
    "LookSAM",
    "MomentumSAM",
    "MomentumTracking",
    "NSADDLe",
    "NonFiniteGradientError",
    "Optimizer",
    "PeerError",
    "Placement",
    "PushPull",
    "QGAdam",
    "QSADDLe",
    "RelaySGD",
    "Schedule",
    "Topology",
    "comm",
    "compressors",
    "gradients",
    "integrations",
    "kernels",
    "metrics",
    "place",
    "ranks",
    "rules",
    "second_pass",
    "sharpest",
    "sharpness",
    "sim",
    "topology",
    "use_backend",
]
