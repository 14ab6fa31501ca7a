"""Data sets, their split over agents, and the agents' batches.

What `--dataset` and `--partition` name is here under the same names, with underscores, and loaded when it is first
asked for. It needs the extra [sim].
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastsaddle.sim import extra

if TYPE_CHECKING:
    from fastsaddle.sim.data.batches import AgentBatches
    from fastsaddle.sim.data.dataset import Dataset, normalization
    from fastsaddle.sim.data.datasets.cifar10 import cifar10
    from fastsaddle.sim.data.datasets.cifar100 import cifar100
    from fastsaddle.sim.data.datasets.digits import digits
    from fastsaddle.sim.data.datasets.fashion_mnist import fashion_mnist
    from fastsaddle.sim.data.datasets.imagenette import imagenette
    from fastsaddle.sim.data.datasets.mnist import mnist
    from fastsaddle.sim.data.datasets.npz import npz
    from fastsaddle.sim.data.partitions.classes import classes
    from fastsaddle.sim.data.partitions.dirichlet import dirichlet
    from fastsaddle.sim.data.partitions.dirichlet_raw import dirichlet_raw
    from fastsaddle.sim.data.partitions.iid import iid
    from fastsaddle.sim.data.partitions.quantity import quantity
    from fastsaddle.sim.data.partitions.shards import shards
    from fastsaddle.sim.data.partitions.sorted import sorted

__all__ = [
    "AgentBatches",
    "Dataset",
    "cifar10",
    "cifar100",
    "classes",
    "digits",
    "dirichlet",
    "dirichlet_raw",
    "fashion_mnist",
    "iid",
    "imagenette",
    "mnist",
    "normalization",
    "npz",
    "quantity",
    "shards",
    "sorted",
]
DATASETS = ("cifar10", "cifar100", "digits", "fashion_mnist", "imagenette", "mnist", "npz")
PARTITIONS = ("classes", "dirichlet", "dirichlet_raw", "iid", "quantity", "shards", "sorted")
# name -> the module of this folder that has it
PLACES = {
    "AgentBatches": "batches",
    "Dataset": "dataset",
    "normalization": "dataset",
    **{name: f"datasets.{name}" for name in DATASETS},
    **{name: f"partitions.{name}" for name in PARTITIONS},
}


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if (needed := extra.needs(f"fs.sim.data.{name}")) is not None:
        raise ImportError(needed)
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*{*globals(), *__all__}]
