"""What is done with a gradient: the rules of all methods, one family a file, and what your own is made of."""

from fastsaddle.graphs.needs import GraphNeeds
from fastsaddle.optimizer.hyperparameters import Flag, Pair, Range
from fastsaddle.optimizer.rows import Rows
from fastsaddle.optimizer.state import ROUND, State
from fastsaddle.rules.any_torch import Torch
from fastsaddle.rules.base import Rule
from fastsaddle.rules.d2 import D2
from fastsaddle.rules.gut import GUT
from fastsaddle.rules.momentum import AdaptedMomentum, Momentum
from fastsaddle.rules.push_pull import PushPull
from fastsaddle.rules.qg_adam import QGAdam
from fastsaddle.rules.relay import Relay
from fastsaddle.rules.tracking import GradientTracking, MomentumTracking

__all__ = [
    "D2",
    "GUT",
    "ROUND",
    "AdaptedMomentum",
    "Flag",
    "GradientTracking",
    "GraphNeeds",
    "Momentum",
    "MomentumTracking",
    "Pair",
    "PushPull",
    "QGAdam",
    "Range",
    "Relay",
    "Rows",
    "Rule",
    "State",
    "Torch",
]
