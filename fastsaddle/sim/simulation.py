"""All agents' training state on one device, built from the options; `step` is one round."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastsaddle.sim import initial_models, methods, schedule
from fastsaddle.sim.agent_data import AgentData
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.devices import find_device
from fastsaddle.sim.engine import GradientEngine
from fastsaddle.sim.evaluation import Evaluation, evaluate
from fastsaddle.topology import parse

# multiplications of a forward pass
SMALL_STEP = 8_000_000


class Simulation:
    """Data, agents, optimizer, schedule and engine of one run.

    Equal options, device, engine, chunk and number of threads give equal bits. Raises ValueError or
    OSError, before any file is written, when options do not fit together or data are missing.
    """

    def __init__(self, config: TrainConfig) -> None:
        config.check()
        self.device = find_device(config.device)
        self.topology = parse(config.topology, config.agents)
        self.data = AgentData(config, self.device)
        self.dataset = self.data.dataset
        self.steps = config.steps
        if config.epochs is not None:
            self.steps = max(1, round(config.epochs * self.data.steps_an_epoch))
        self.schedule = schedule.parse(config.schedule, self.steps, config.lr_decay, config.warmup)
        self.stack = initial_models.build_stack(config, self.dataset, self.device)
        groups = initial_models.decay_groups(self.stack, config.weight_decay, config.norm_decay)
        self.optimizer = methods.build(config.algorithm, groups, **_options(config, self.topology))
        # what the constructor made of it: an algorithm may scale its rate
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.engine = GradientEngine(self.stack, F.cross_entropy, config.engine, config.chunk)
        self.evaluations = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.is_compressed = bool(self.optimizer.communicator.state_names)
        # of what was to be sent, and of what compression lost: sums over steps of norms, RMS over agents
        self.norm_sums = torch.zeros(2, dtype=torch.float64, device=self.device)

    def step(self, step: int) -> Tensor:
        """Local step and gossip number `step` (from 0); the agents' mean training loss, 0-d."""
        inputs, labels = self.data.batch(step)
        factor = self.schedule.factor(step)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

        def closure() -> Tensor:
            self.evaluations += self.stack.agents
            return self.engine.gradients(inputs, labels).mean()

        loss = self.optimizer.step(closure)
        self.loss_sum += loss
        if self.is_compressed:
            self.norm_sums += self.optimizer.squares.mean(0).sqrt()
        return loss

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return self.rates[0] * self.schedule.factor(step)

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
        return evaluate(self.stack, self.dataset, one_by_one=self.engine.engine == "loop")

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes from step to step, live: what a checkpoint must hold."""
        buffers = {f"buffer.{name}": buffer for name, buffer in self.stack.buffers.items()}
        states = {f"optimizer.{name}": row for name, row in self.optimizer.flat_state.items()}
        rounds = {"optimizer.rounds": self.optimizer.rounds, "norm_sums": self.norm_sums}
        messages = rounds if self.is_compressed else {}
        return {"x": self.stack.x, "loss_sum": self.loss_sum, **buffers, **states, **messages}

    def counters(self) -> dict[str, int]:
        """Whole numbers that a checkpoint holds beside the tensors."""
        return {"bytes_sent": self.optimizer.bytes_sent, "evaluations": self.evaluations}

    @torch.no_grad()
    def restore(self, saved: dict[str, Tensor], counters: dict[str, int]) -> None:
        """Take over a checkpoint's content. Raises ValueError when it is not this run's."""
        live = self.tensors()
        shapes = {name: tuple(tensor.shape) for name, tensor in live.items()}
        seen = {name: tuple(tensor.shape) for name, tensor in saved.items()}
        if shapes != seen:
            raise ValueError(f"the checkpoint must hold {shapes}, got {seen}")
        for name, tensor in live.items():
            tensor.copy_(saved[name])
        self.optimizer.bytes_sent = counters["bytes_sent"]
        self.evaluations = counters["evaluations"]


def _options(config: TrainConfig, topology: Any) -> dict[str, Any]:
    """The options that an optimizer's constructor may name."""
    names = ("lr", "weight_decay", "consensus_step", "seed", *methods.PARTICULAR)
    options = {name: getattr(config, name) for name in names}
    return {"topology": topology, "compressor": config.choco, **options}
