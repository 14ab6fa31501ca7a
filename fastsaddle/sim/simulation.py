"""All agents' training state on one device, built from the options; `step` is one round."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.agents import AgentStack
from fastsaddle.optimizer import DecentralizedOptimizer
from fastsaddle.sim import data, models, partition
from fastsaddle.sim.batches import AgentBatches
from fastsaddle.sim.config import SHARPNESS_AWARE, WITH_MOMENTUM, TrainConfig
from fastsaddle.sim.engine import GradientEngine
from fastsaddle.sim.evaluation import Evaluation, evaluate
from fastsaddle.topology import Topology, parse

# multiplications of a forward pass
SMALL_STEP = 8_000_000

OPTIMIZERS: dict[str, Callable[..., DecentralizedOptimizer]] = {
    "qsaddle": fs.QSADDLe,
    "qgm": fs.QGM,
    "dsaddle": fs.DSADDLe,
    "dsgdm": fs.DSGDm,
    "dsgd": fs.DSGD,
}


class Simulation:
    """Data, agents, optimizer and engine of one run.

    Equal options, device, engine, chunk and number of threads give equal bits. Raises ValueError or
    OSError, before any file is written, when options do not fit together or data are missing.
    """

    def __init__(self, config: TrainConfig) -> None:
        config.check()
        self.device = find_device(config.device)
        self.topology = parse(config.topology, config.agents)
        self.dataset = data.load(config.dataset, config.data_dir, self.device)
        labels = self.dataset.train_labels.cpu().numpy()
        recut = config.partition == "dirichlet"
        parts = partition.dirichlet(labels, config.agents, config.alpha, config.seed, recut)
        self.partition = partition.statistics(parts, labels, len(self.dataset.classes))
        self.batches = AgentBatches(parts, config.batch_size, config.seed, self.device)
        classes = len(self.dataset.classes)
        module = models.build(config.model, self.dataset.shape, classes, config.seed)
        self.stack = AgentStack(module, config.agents, device=self.device)
        self.optimizer = _optimizer(config, self.stack, self.topology)
        self.engine = GradientEngine(self.stack, F.cross_entropy, config.engine, config.chunk)

    def step(self, step: int) -> Tensor:
        """Local step and gossip number `step` (from 0); the agents' mean training loss, 0-d."""
        indices = self.batches.at(step)
        images = self.dataset.train_images[indices]
        labels = self.dataset.train_labels[indices]
        return self.optimizer.step(lambda: self.engine.gradients(images, labels).mean())

    def suitable_threads(self, batch_size: int) -> int:
        """One for small steps, where on a busy machine threads mostly wait for each other.

        Measured on 2 cores: with 2 threads the default run is a seventh faster than with 1, but
        eight times slower when other processes take a core each.
        """
        work = self.stack.agents * batch_size * self.stack.layout.dim
        return 1 if work < SMALL_STEP else torch.get_num_threads()

    def evaluate(self) -> Evaluation:
        """Test the agents and their average on the whole test set.

        Raises NonFiniteGradientError when a gradient was NaN or infinite since the last call.
        """
        self.optimizer.raise_if_skipped()
        one_by_one = self.engine.engine == "loop"
        images, labels = self.dataset.test_images, self.dataset.test_labels
        return evaluate(self.stack, images, labels, one_by_one)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes from step to step, live: what a checkpoint must hold."""
        buffers = {f"buffer.{name}": buffer for name, buffer in self.stack.buffers.items()}
        states = {f"optimizer.{name}": row for name, row in self.optimizer.flat_state.items()}
        return {"x": self.stack.x, **buffers, **states}

    @torch.no_grad()
    def restore(self, saved: dict[str, Tensor], bytes_sent: int) -> None:
        """Take over a checkpoint's tensors. Raises ValueError when they are not this run's."""
        live = self.tensors()
        shapes = {name: tuple(tensor.shape) for name, tensor in live.items()}
        seen = {name: tuple(tensor.shape) for name, tensor in saved.items()}
        if shapes != seen:
            raise ValueError(f"the checkpoint must hold {shapes}, got {seen}")
        for name, tensor in live.items():
            tensor.copy_(saved[name])
        self.optimizer.bytes_sent = bytes_sent


def find_device(name: str) -> torch.device:
    """The device that an option names; ValueError where this machine has none such."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"--device {name} is not on this machine, where torch {torch.__version__} "
            f"sees {torch.cuda.device_count()} CUDA devices"
        )
    _repeat_bits()
    return device


def _repeat_bits() -> None:
    """Choose CUDA's deterministic algorithms, so that a resumed run repeats the bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # it would also overwrite all new memory, which costs time and changes nothing here
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _optimizer(config: TrainConfig, stack: AgentStack, graph: Topology) -> DecentralizedOptimizer:
    options: dict[str, Any] = {"topology": graph, "weight_decay": config.weight_decay}
    if config.algorithm in WITH_MOMENTUM:
        options |= {"momentum": config.momentum, "nesterov": config.nesterov}
    if config.algorithm in SHARPNESS_AWARE:
        options |= {"rho": config.rho}
    return OPTIMIZERS[config.algorithm](stack.parameters(), lr=config.lr, **options)
