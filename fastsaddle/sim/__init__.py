"""The simulator: data, its split over agents, networks, all agents' gradients; whole runs from Python.

`train` runs what `fastsaddle train` runs and gives a `Run`, `compare` a `Comparison`; `load` opens what either wrote.
An `Observer` is told how a run goes, a `Tracker` writes it down elsewhere. `data` has data sets and their split. They
are loaded when they are first asked for, and need the extra [sim].
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastsaddle.sim import extra

if TYPE_CHECKING:
    from fastsaddle.sim import data as data
    from fastsaddle.sim.api.compare import compare
    from fastsaddle.sim.api.comparison import Comparison
    from fastsaddle.sim.api.load import load
    from fastsaddle.sim.api.run import Run
    from fastsaddle.sim.api.train import train
    from fastsaddle.sim.commands.stopped import StoppedError
    from fastsaddle.sim.observer import Observer
    from fastsaddle.sim.tracker import Tracked, Tracker

__all__ = [
    "Comparison",
    "Observer",
    "Run",
    "StoppedError",
    "Tracked",
    "Tracker",
    "compare",
    "load",
    "train",
]
# name -> the module that has it
PLACES = {
    "Comparison": "fastsaddle.sim.api.comparison",
    "Observer": "fastsaddle.sim.observer",
    "Run": "fastsaddle.sim.api.run",
    "StoppedError": "fastsaddle.sim.commands.stopped",
    "Tracked": "fastsaddle.sim.tracker",
    "Tracker": "fastsaddle.sim.tracker",
    "compare": "fastsaddle.sim.api.compare",
    "load": "fastsaddle.sim.api.load",
    "train": "fastsaddle.sim.api.train",
}


def __getattr__(name: str) -> Any:
    if name == "data":
        return import_module("fastsaddle.sim.data")
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if (needed := extra.needs(f"fs.sim.{name}")) is not None:
        raise ImportError(needed)
    return getattr(import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), "data", *__all__})
