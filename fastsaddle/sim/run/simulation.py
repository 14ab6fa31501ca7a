"""All agents' training state on one device, built from the options; `step` is one round."""

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastsaddle.gradients.base import AtRows
from fastsaddle.graphs.faults import Faulty
from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.optimizer.hyperparameters import Range
from fastsaddle.optimizer.ranges import ranged
from fastsaddle.sim import choices, methods
from fastsaddle.sim.config import MOST_STEPS, TrainConfig
from fastsaddle.sim.data.agent_data import AgentData
from fastsaddle.sim.gradient_engine import GradientEngine
from fastsaddle.sim.run import (
    faults,
    graph_choice,
    initial_models,
    memory_needed,
    schedule,
    topologies,
)
from fastsaddle.sim.run.cross_features import CrossFeatures
from fastsaddle.sim.run.devices import find_device
from fastsaddle.sim.run.evaluation import Evaluation, evaluate
from fastsaddle.sim.run.free_processors import are_free
from fastsaddle.sim.run.sharp_samples import SharpSamples, is_wanted
from fastsaddle.sim.run.step_graph import CudaRecorder, StepGraph, StepInputs
from fastsaddle.sim.run.world import World

LOG = logging.getLogger(__name__)

# multiplications of a forward pass
SMALL_STEP = 8_000_000
# counters: the steps that the last line of metrics.jsonl is over
LINE = ("line_begin", "line_end")


class Simulation:
    """Data, agents, optimizer, schedule and engine of one run.

    Equal options, device, engine, chunk and number of threads give equal bits. Raises ValueError or
    OSError, before any file is written, when options do not fit together or data are missing.

    Of a run of several processes each has the simulation of its own agents; what is said to be of all agents is asked
    for by all of them together.
    """

    def __init__(self, config: TrainConfig, world: World | None = None) -> None:
        config.check()
        self.world = world
        placement = None if world is None else world.placement
        self.device = find_device(config.device)
        self.data = AgentData(config, self.device, None if world is None else world.agents)
        self.dataset = self.data.dataset
        memory_needed.check(config, self.dataset, self.device)
        graph = topologies.find(config.topology, config.agents, config.seed)
        self.topology = faults.over(config.faults, config.seed, graph)
        self.steps = config.steps
        if config.epochs is not None:
            self.steps = max(1, round(config.epochs * self.data.steps_an_epoch))
        if self.steps > MOST_STEPS:
            raise ValueError(f"--epochs {config.epochs:g} are more than {MOST_STEPS:,} steps")
        self.schedule = schedule.parse(config.schedule, self.steps, config.lr_decay, config.warmup)
        self.stack = initial_models.build_stack(config, self.dataset, self.device, placement)
        groups = initial_models.decay_groups(self.stack, config.weight_decay, config.norm_decay)
        options = optimizer_options(config, self.topology, self.steps)
        if placement is not None:
            options["placement"] = placement
        self.optimizer = methods.build(
            config.algorithm, groups, config.gradient, config.option, **options
        )
        if self.optimizer.locals is not None:
            raise ValueError(
                f"--algorithm {config.algorithm} makes local optimizers (local=), whose state no checkpoint "
                "of a run holds: use it as a torch optimizer"
            )
        self._strengths = {
            name: (getattr(config, name), getattr(config, option))
            for option, name in methods.SCHEDULED.items()
            if name in self.optimizer.defaults and getattr(config, option) != "constant"
        }
        # what the constructor made of it: an algorithm may scale its rate
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        sample = self.dataset.train[: config.batch_size]
        self.engine = GradientEngine(
            self.stack,
            F.cross_entropy,
            config.engine,
            config.chunk,
            config.precision,
            sample.expand(self.stack.agents, *sample.shape),
            config.agents,
        )
        # steps write their batch over the last one, unless a network or engine of the user's may keep it
        self._place: Tensor | None = None
        if not any(choices.OWN.fullmatch(text) for text in (config.model, config.engine)):
            self._place = sample.new_empty(self.stack.agents, config.batch_size, *sample.shape[1:])
        self.cross = self._cross_features(config)
        self.sharp = self._sharp_samples()
        # of several processes: losses, and squares of what was sent, of steps that are not in the sums yet
        self._kept: list[tuple[Tensor, Tensor]] = []
        # samples that gradients were taken of, by the agents here
        self._samples, self._batch = 0, config.batch_size
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.is_compressed = self.optimizer.communicator.is_compressed
        # of what was to be sent, and of what compression lost: sums over steps of norms, RMS over agents
        self.norm_sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        # the sums of the last line of metrics.jsonl, over the steps from one evaluation to the next
        self.line_sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self.line_steps = 0, 0
        # "on" or "off", and why
        self.cuda_graph, self.cuda_graph_reason = graph_choice.resolve(
            config, self.device, self.optimizer, self.engine.engine
        )
        self.graph: StepGraph | None = None
        LOG.info("CUDA graph %s: %s", self.cuda_graph, self.cuda_graph_reason)
        if self.cuda_graph == "on":
            self.graph = StepGraph(self, CudaRecorder(self.device))

    def step(self, step: int) -> Tensor:
        """Local step and gossip number `step` (from 0); the mean training loss of the agents here, 0-d.

        Raises CaptureError where the step was to be captured in a CUDA graph and cannot be.
        """
        factor = self.schedule.factor(step)
        strengths = {
            name: value * schedule.strength(kind, step, self.steps)
            for name, (value, kind) in self._strengths.items()
        }
        settings = tuple({"lr": rate * factor, **strengths} for rate in self.rates)
        inputs = StepInputs(self.data.draws(step), settings)
        return self.advance(inputs) if self.graph is None else self.graph.step(self._whole(inputs))

    def _whole(self, inputs: StepInputs) -> StepInputs:
        """The same with all that parameter groups hold, which anybody may have changed since the last step.

        Raises:
            ValueError: a number that is out of range.
        """
        optimizer, settings, ways = self.optimizer, [], []
        for group, scheduled in zip(optimizer.param_groups, inputs.settings, strict=True):
            held = {**{name: group[name] for name in optimizer.hyperparameters}, **scheduled}
            for name, value in held.items():
                if not isinstance(value, Tensor):
                    optimizer.hyperparameters[name].check(name, value, optimizer.agents)
            kinds = {name: isinstance(optimizer.hyperparameters[name], Range) for name in held}
            numbers = {n: v for n, v in held.items() if kinds[n] and v is not None}
            settings.append(numbers)
            ways.append({n: v for n, v in held.items() if n not in numbers})
        return StepInputs(inputs.draws, tuple(settings), ways)

    def advance(self, inputs: StepInputs) -> Tensor:
        """The step itself, which a graph can hold: nothing that changes is read from the host, but `inputs`."""
        with ranged("batch"):
            samples, labels = self.data.gather(inputs.draws, self._place)
        for group, settings in zip(self.optimizer.param_groups, inputs.settings, strict=True):
            group.update(settings)
        targets = labels if self.cross is None else self.cross.targets(samples, labels)

        def closure() -> Tensor:
            return self._gradients(samples, targets)

        # outputs that others ask for are those of the parameters
        is_alone = self.cross is None and self.sharp is None and self.engine.reads_rows
        losses = self.optimizer.step(AtRows(closure) if is_alone else closure)
        if self.cross is not None:
            self.optimizer.bytes_sent += self.cross.nbytes
        if self.world is not None:
            squares = self.optimizer.squares.clone() if self.is_compressed else self.norm_sums[:0]
            self._kept.append((losses.clone(), squares))
            return losses.mean()
        return self._add(losses, self.optimizer.squares if self.is_compressed else None)

    def _add(self, losses: Tensor, squares: Tensor | None) -> Tensor:
        """Count a step, of all agents, into the sums; its mean loss."""
        loss = losses.mean()
        self.loss_sum += loss
        if squares is not None:
            self.norm_sums += squares.mean(0).sqrt()
        return loss

    def settle(self) -> None:
        """Add what other processes kept since the last call: all must call it, after equally many steps."""
        if not self._kept or self.world is None:
            return
        losses, squares = (torch.stack(kept, 1) for kept in zip(*self._kept, strict=True))
        self._kept = []
        # the steps one after the other, as one process adds them
        of_steps = self.world.rows(losses).T.contiguous()
        sent = self.world.rows(squares).transpose(0, 1).contiguous() if self.is_compressed else None
        for step, each in enumerate(of_steps):
            self._add(each, None if sent is None else sent[step])

    def _gradients(self, inputs: Tensor, targets: Any) -> Tensor:
        """Leave every agent's gradient in the stack, counted; the losses `[agents]`."""
        if self.sharp is None:
            of = self.engine if self.cross is None else self.cross
            losses, samples = of.gradients(inputs, targets), self._batch
        else:
            losses, samples = self.sharp.gradients(inputs, targets)
        self._samples += (self.stack.agents - self._absent) * samples
        return losses

    @property
    def _absent(self) -> int:
        """Agents here whose gradients of this step count for nothing, as they are down."""
        down = self.optimizer.communicator.down(self.optimizer)
        # behind them are those elsewhere whose copies are kept here
        return 0 if down is None else int(down[: self.stack.agents].sum())

    def shares_down(self) -> dict[str, float]:
        """Which shares of the links fell, and of the agents were down, in the rounds of the last line's steps."""
        if not isinstance(self.topology, Faulty):
            return {}
        begun = self.optimizer.communicator.gossips_begun
        rounds = range(*map(begun, self.line_steps))
        links, agents = self.topology.shares(rounds)
        return {"links_down": links, "agents_down": agents}

    @property
    def counted(self) -> tuple[int, ...]:
        """Bytes sent and samples that gradients were taken of, so far, as far as the host counts them."""
        return self.optimizer.live.bytes_sent, self._samples

    @counted.setter
    def counted(self, numbers: tuple[int, ...]) -> None:
        self.optimizer.live.bytes_sent, self._samples = numbers

    @property
    def version(self) -> int:
        """Another number where parameters were moved, and buffers laid out anew, since it was last asked for."""
        self.stack.rows.verify()
        return self.stack.rows.version

    def totals(self) -> tuple[int, int]:
        """Bytes sent, and samples that gradients were taken of, by all agents."""
        if self.world is None:
            return self.optimizer.bytes_sent, self._samples
        sent, samples = self.world.total(self.optimizer.bytes_sent, self._samples)
        return sent, samples

    @property
    def evaluations(self) -> int | float:
        """Gradients taken by all agents; one of a part of the batch counts as that part of one."""
        whole, rest = divmod(self.totals()[1], self._batch)
        return whole + rest / self._batch if rest else whole

    def _cross_features(self, config: TrainConfig) -> CrossFeatures | None:
        weights = config.ccl_model, config.ccl_data
        if not any(weights):
            return None
        if self.world is not None:
            raise ValueError("--ccl-model and --ccl-data work in one process: take --ranks off")
        if not isinstance(self.topology, Topology):
            raise ValueError(
                f"--ccl-model and --ccl-data need a graph that stays, got {self.topology!r}"
            )
        if not torch.equal(self.topology.W > 0, self.topology.W.T > 0):
            raise ValueError(
                "--ccl-model and --ccl-data need edges that go both ways: features go one way, what was found back"
            )
        sent = isinstance(self.optimizer.rule, methods.SENDING_MODELS)
        classes = len(self.dataset.classes)
        return CrossFeatures(self.engine, self.topology, classes, *weights, models_are_sent=sent)

    def _sharp_samples(self) -> SharpSamples | None:
        if not is_wanted(self.optimizer):
            return None
        if self.cross is None:
            return SharpSamples(self.engine, self.optimizer)
        return SharpSamples(self.engine, self.optimizer, self.cross.losses, self.cross.layer)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return self.rates[0] * self.schedule.factor(step)

    def suitable_threads(self, batch_size: int) -> int:
        """One for small steps, and where other processes keep the processors busy, else as many as torch takes.

        Threads that share an operation wait there for the last of them. Measured on 2 cores: with 2 threads the default
        run is a seventh faster than with 1, but eight times slower when other processes take a core each; 16
        perceptrons 784-50-10 take 0.7 times as long, and 2.4 times beside one busy process.
        """
        threads = torch.get_num_threads()
        if threads == 1 or self.stack.agents * batch_size * self.stack.layout.dim < SMALL_STEP:
            return 1
        return threads if self.device.type != "cpu" or are_free(threads) else 1

    def evaluate(self) -> Evaluation:
        """Test the agents and their average on the whole test set.

        Raises NonFiniteGradientError when a gradient was NaN or infinite since the last call.
        """
        self.optimizer.raise_if_skipped()
        center = self.optimizer.center
        with ranged("evaluation"):
            return evaluate(self.stack, self.dataset, self.engine.one_by_one, self.world, center)

    def sums(self, step: int) -> tuple[int, float, float, float]:
        """Steps since the evaluation before the one at `step`, and sums over them: of losses and of both norms.

        The first call for a step begins new sums; later ones, in a run that went on from there too, give the same.
        """
        self.settle()
        begin, end = self.line_steps
        if step != end:
            self.line_steps = begin, end = end, step
            self.line_sums[0] = self.loss_sum
            self.line_sums[1:] = self.norm_sums
            self.loss_sum.zero_()
            self.norm_sums.zero_()
        loss, update, error = self.line_sums.tolist()
        return end - begin, loss, update, error

    def consensus(self) -> nn.Module:
        """The model that stands for all agents: their mean, or the center that the algorithm keeps."""
        return self.stack.consensus(self.optimizer.center)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes from step to step, live: what a checkpoint must hold, of the agents here."""
        self.settle()
        buffers = {f"buffer.{name}": buffer for name, buffer in self.stack.buffers.items()}
        states = {f"optimizer.{name}": row for name, row in self.optimizer.flat_state.items()}
        numbers = {f"optimizer.{name}": row for name, row in self.optimizer.scalar_state.items()}
        further = {"norm_sums": self.norm_sums, **numbers} if self.is_compressed else numbers
        if self.optimizer.counts_rounds:
            further["optimizer.rounds"] = self.optimizer.rounds
        if self.optimizer.remembered:
            further["optimizer.remembered"] = self._remembered()
        sums = {"loss_sum": self.loss_sum, "line_sums": self.line_sums}
        return {"x": self.stack.x, **sums, **buffers, **states, **further}

    def _remembered(self) -> Tensor:
        """What parameter groups remember, float64 `[groups, names]` on the CPU; NaN where there is nothing yet."""
        groups, names = self.optimizer.param_groups, self.optimizer.remembered
        numbers = [[math.nan if g[name] is None else g[name] for name in names] for g in groups]
        return torch.tensor(numbers, dtype=torch.float64)

    def _remember(self, numbers: Tensor) -> None:
        for group, row in zip(self.optimizer.param_groups, numbers.tolist(), strict=True):
            for name, number in zip(self.optimizer.remembered, row, strict=True):
                whole = int(number) if number.is_integer() else number
                group[name] = None if math.isnan(number) else whole

    def counters(self) -> dict[str, int]:
        """Whole numbers that a checkpoint holds beside the tensors."""
        sent, samples = self.totals()
        whole, rest = divmod(samples, self._batch)
        further = {"samples": rest} if rest else {}
        counts = {"bytes_sent": sent, "evaluations": whole}
        return {**counts, **dict(zip(LINE, self.line_steps, strict=True)), **further}

    @torch.no_grad()
    def restore(self, saved: dict[str, Tensor], counters: dict[str, int]) -> None:
        """Take over a checkpoint's content. Raises ValueError, before anything changes, when it is not this run's."""
        live = self.tensors()
        # earlier versions kept fewer numbers, which begin at zero
        zero = {state.name for state in self.optimizer.states if state.initial == "zero"}
        numbers = {n: row for n, row in self.optimizer.scalar_state.items() if n in zero}
        later = {"line_sums": self.line_sums, **{f"optimizer.{n}": r for n, r in numbers.items()}}
        saved = {**{name: torch.zeros_like(row) for name, row in later.items()}, **saved}
        forms, seen = _forms(live), _forms(saved)
        if wrong := [name for name in {**forms, **seen} if forms.get(name) != seen.get(name)]:
            first = min(wrong)
            raise ValueError(
                f"{first} must be {forms.get(first, 'absent')}, got {seen.get(first, 'none')}"
            )
        needed = "bytes_sent", "evaluations", *LINE
        if missing := [name for name in needed if name not in counters]:
            raise ValueError(f"it does not count {', '.join(missing)}")
        for name, tensor in live.items():
            tensor.copy_(saved[name])
        self.optimizer.mark_loaded()
        if self.optimizer.remembered:
            self._remember(saved["optimizer.remembered"])
        # of several processes the first one counts what was before
        counts = self.world is None or self.world.is_first
        samples = counters["evaluations"] * self._batch + counters.get("samples", 0)
        self.optimizer.bytes_sent = counters["bytes_sent"] if counts else 0
        self._samples = samples if counts else 0
        begin, end = (counters[name] for name in LINE)
        self.line_steps = begin, end


def _forms(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Type and shape of each."""
    return {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in tensors.items()}


def optimizer_options(config: TrainConfig, topology: Any, steps: int) -> dict[str, Any]:
    """The options that an optimizer's constructor may name."""
    names = ("agents", "seed", "gossip_every", *methods.OF_OPTIMIZERS)
    options = {name: getattr(config, name) for name in names}
    if config.momentum is None:
        del options["momentum"]
    options["state_dtype"] = getattr(torch, config.state_dtype)
    options["sam"] = methods.parse_sam(config.sam)
    options["period"] = methods.parse_period(config.period, steps)
    return {**options, "topology": topology, "compressor": config.choco}
