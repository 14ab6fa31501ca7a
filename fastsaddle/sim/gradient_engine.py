"""Gradients of all agents into the flat gradient buffer: by the engine that was asked for, or by one that can."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastsaddle.agents import AgentStack
from fastsaddle.optimizer.flat_parameters import FlatParameters
from fastsaddle.sim.engines import _choice
from fastsaddle.sim.engines._layer_chain import is_altered
from fastsaddle.sim.engines._precision import check_precision, in_float32, products

# of one agent: outputs and targets to a scalar, or to (scalar, more that is to be returned)
Loss = Callable[[Any, Any], Any]

LOG = logging.getLogger(__name__)

# larger parts leave the caches and the allocator's memory: 1,024 agents took 1.2 times as long all at once
CPU_CHUNK = 64


class GradientEngine:
    """Evaluates every agent's loss and gradient on its own batch.

    Engines agree up to rounding, not in the last bits: a run that is to be repeated keeps engine, chunk and threads.

    Args:
        stack: the agents.
        loss: `(outputs [batch, ...], targets [batch, ...]) -> scalar`, for one agent.
        engine: "vmap"; "unfold": vmap with convolutions as products over patches; "implicit": the same without laying
            them out, by Triton kernels on a GPU, which have not been measured; "loop"; "threads": a loop that takes as
            many agents at once as torch has threads, on a CPU; "batched": chains of linear layers by batched products;
            "lanes": chains of convolutions and linear layers by kernels for a CPU, samples in the lanes of registers;
            an `Engine` of one's own as file.py:Name; or "auto" for the rule of `choose_engine`, which goes on agent by
            agent, with a warning, where the network cannot be mapped.
        chunk: agents mapped at once, bounding the memory of activations; None is 64 on a CPU, all elsewhere. "loop" and
            "threads" ignore it.
        precision: "float32"; "tf32": products and convolutions of a GPU in TF32; "bfloat16": forward passes
            under `torch.autocast`; losses, parameters and gradients are float32.
        inputs: `[agents, batch, ...]`, such as gradients will be taken of: whether the engine can run is then found out
            here, otherwise with the first inputs.
        all_agents: how many there are in all processes: "auto" chooses by them, so that each one chooses alike.

    Attributes:
        engine, chunk, precision: what was resolved; those of "auto" may change with the first inputs.
        one_by_one: whether each agent's model is run by itself.
        reads_rows: whether models are read where they lie, instead of from the parameters.

    Raises:
        ValueError: unknown engine or precision, a chunk below 1, "batched" or "lanes" for a network that is no such
            chain, "lanes" without the native library or in another precision than float32, "threads" off the CPU or
            without OpenMP, "implicit" where its kernels cannot run, "vmap", "unfold" or "implicit" for a network that
            cannot be mapped, "tf32" on a CPU.
    """

    def __init__(
        self,
        stack: AgentStack,
        loss: Loss,
        engine: str = _choice.AUTO,
        chunk: int | None = None,
        precision: str = "float32",
        inputs: Tensor | None = None,
        all_agents: int | None = None,
    ) -> None:
        self._is_auto = engine == _choice.AUTO
        if self._is_auto:
            engine = _choice.choose_engine(
                stack.template,
                stack.device,
                all_agents or stack.agents,
                precision,
                None if inputs is None or inputs.dim() < 2 else inputs.shape[1] or None,
                stack.placement is not None,
            )
        _choice.find(engine)
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1 agent, got {chunk}")
        check_precision(precision, stack.device)
        self.stack, self.loss, self.precision = stack, loss, precision
        self._asked_chunk = chunk
        self._tried: set[tuple[bool, ...]] = set()
        self._modules = list(stack.template.modules())
        self._take(engine)
        if inputs is not None:
            self._check_agents("inputs", inputs)
            with torch.enable_grad(), products(precision, stack.device):
                self._try(inputs)
        if stack.device.type == "cpu":
            _keep_freed_memory()

    def gradients(
        self, inputs: Tensor, targets: Any, loss: Loss | None = None, features: str | None = None
    ) -> Any:
        """Write every agent's gradient into `stack.g` and return the losses `[agents]`, detached.

        Args:
            inputs: `[agents, batch, ...]`.
            targets: `[agents, ...]`, a tensor or a tree of them (tuples, dicts), of which `loss` gets one agent's part.
            loss: in place of the engine's. Where it returns (scalar, more), so does this: losses and more, a tensor or
                a tree, stacked `[agents, ...]` and detached.
            features: name of a layer whose input `loss` is to get too: as outputs it gets (outputs, input).

        Raises:
            ValueError: another leading dimension, or a network that the engine that was asked for cannot run.
        """
        for name, value in (("inputs", inputs), ("targets", targets)):
            for part in tree_leaves(value):
                self._check_agents(name, part)
        self.stack.rows.verify()
        self.stack.rows.renewals += 1
        loss = self.loss if loss is None else loss
        with torch.enable_grad(), products(self.precision, self.stack.device):
            self._try(inputs)
            with nullcontext() if self.reads_rows else _moved(self.stack.rows):
                return self._runs.gradients(inputs, targets, loss, features)

    @torch.no_grad()
    def outputs(
        self, inputs: Tensor, whose: Tensor | None = None, features: str | None = None
    ) -> Any:
        """Outputs `[agents, batch, ...]` float32 without gradients, in the stack's mode; running statistics rest.

        Args:
            inputs: `[agents, batch, ...]`.
            whose: int64 `[agents]`: which agent's model each batch is put into; None: its own agent's.
            features: name of a layer whose input, stacked likewise, is to be returned too: (outputs, input).

        Raises:
            ValueError: another leading dimension, or a network that the engine that was asked for cannot run.
        """
        self._check_agents("inputs", inputs)
        self.stack.rows.verify()
        with products(self.precision, self.stack.device):
            self._try(inputs)
            found = self._runs.outputs(inputs, whose, features)
        return in_float32(found)

    def _check_agents(self, name: str, value: Tensor) -> None:
        if value.shape[:1] != (self.stack.agents,):
            raise ValueError(
                f"{name} must be [{self.stack.agents}, batch, ...], got {tuple(value.shape)}"
            )

    def _take(self, engine: str) -> None:
        """Make an engine. Raises ValueError where it cannot run, whatever the inputs."""
        choice = _choice.find(engine)
        self._kind = choice.function
        reason = self._kind.can_run(self.stack, self.precision)
        if reason is not None:
            raise ValueError(f"engine {engine} {reason}")
        chunk = self._asked_chunk
        if chunk is None and self.stack.device.type == "cpu" and self.stack.agents > CPU_CHUNK:
            chunk = CPU_CHUNK
        self.engine, self.one_by_one = engine, self._kind.one_by_one
        self.reads_rows = self._kind.reads_rows
        self.chunk = None if self.one_by_one else chunk
        self._runs = choice(stack=self.stack, chunk=self.chunk, precision=self.precision)
        LOG.info(
            "gradients by engine %s, which %s; %s agents at once, %s",
            *(engine, "auto has chosen" if self._is_auto else "was asked for"),
            *("one by one, so 1" if self.one_by_one else self.chunk or "all", self.precision),
        )

    def _try(self, inputs: Tensor) -> None:
        """Once in each mode: go on with another engine where that of auto cannot run on such inputs."""
        # hooks may be added at any time
        mode = self.stack.training, torch.is_grad_enabled(), any(map(is_altered, self._modules))
        if mode in self._tried:
            return
        reason = self._kind.can_run(self.stack, self.precision, inputs)
        if reason is not None:
            said = f"engine {self.engine} {reason}"
            if not self._is_auto:
                raise ValueError(said)
            self._take(_choice.choose_one_by_one(self.stack.device, self.stack.agents))
            LOG.info("%s; %s takes its place", said, self.engine)
            warnings.warn(f"{said}; {self.engine} takes its place", RuntimeWarning, stacklevel=4)
        self._tried.add(mode)


@contextmanager
def _moved(rows: FlatParameters) -> Iterator[None]:
    """Inside the block parameters hold the models that gradients are taken at."""
    if rows.at is rows.x:
        yield
        return
    models = rows.x.clone()
    with torch.no_grad():
        rows.x.copy_(rows.at)
    try:
        yield
    finally:
        with torch.no_grad():
            rows.x.copy_(models)


def _keep_freed_memory() -> None:
    """Let malloc keep what is freed: else small models spend up to a third of a step on page faults.

    glibc hands the free end of its heap back to the system when that exceeds twice the largest block that was mapped
    and freed so far (mallopt(3), M_TRIM_THRESHOLD), which activations of one agent never raise: by the accidents of the
    heap's layout a pass of 16 LeNet-5 took none or 12,800 page faults, 35 or 56 ms on one thread. One block of just
    below 32 MB, the largest that counts, raises it to 64 MB; nothing is written into it. Other allocators ignore it.
    """
    torch.empty(31 << 20, dtype=torch.uint8)
