"""Gradients of all agents into the flat gradient buffer: mapped over agents at once, or agent by agent."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map

from fastsaddle.agents import AgentStack
from fastsaddle.kernels.stacked_convolution.ops import unavailable
from fastsaddle.sim.engines.agent_loop import AgentLoop
from fastsaddle.sim.engines.engine_choice import ENGINES, choose_engine
from fastsaddle.sim.engines.features import returning_features
from fastsaddle.sim.engines.implicit_convolution import implicit_convolution
from fastsaddle.sim.engines.layer_chain import LayerChain, mean_cross_entropy
from fastsaddle.sim.engines.patch_convolution import MappedLayers, Stacked, StackedConvolution
from fastsaddle.sim.engines.precision import casting, check_precision, in_float32, products

# of one agent: outputs and targets to a scalar, or to (scalar, more that is to be returned)
Loss = Callable[[Any, Any], Any]

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
            or "auto" for the rule of `choose_engine`.
        chunk: agents mapped at once, bounding the memory of activations; None is 64 on a CPU, all elsewhere. "loop" and
            "threads" ignore it.
        precision: "float32"; "tf32": products and convolutions of a GPU in TF32; "bfloat16": forward passes
            under `torch.autocast`; losses, parameters and gradients are float32.

    Attributes:
        engine, chunk, precision: what was resolved.

    Raises:
        ValueError: unknown engine or precision, a chunk below 1, "batched" for a network that is no chain of linear
            layers, "threads" off the CPU or without OpenMP, "implicit" where its kernels cannot run, "tf32" on a CPU.
    """

    def __init__(
        self,
        stack: AgentStack,
        loss: Loss,
        engine: str = "auto",
        chunk: int | None = None,
        precision: str = "float32",
    ) -> None:
        if engine not in ("auto", *ENGINES):
            raise ValueError(f"engine must be one of auto, {', '.join(ENGINES)}, got {engine!r}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1 agent, got {chunk}")
        check_precision(precision, stack.device)
        self.stack, self.loss, self.precision = stack, loss, precision
        if engine == "auto":
            engine = choose_engine(stack.template, stack.device, stack.agents)
        is_cpu = stack.device.type == "cpu"
        if engine == "threads" and not (is_cpu and torch.backends.openmp.is_available()):
            raise ValueError(
                f"engine threads needs a CPU and a torch built with OpenMP, the device is {stack.device}"
            )
        reason = unavailable(stack.device) if engine == "implicit" else None
        if reason is not None:
            raise ValueError(f"engine implicit cannot run: {reason}")
        self.engine = engine
        if chunk is None and is_cpu and stack.agents > CPU_CHUNK:
            chunk = CPU_CHUNK
        one_by_one = engine in ("loop", "threads")
        self.chunk = None if one_by_one else chunk
        self._cast = partial(casting, precision, stack.device)
        self._loop = AgentLoop(stack, self._cast, engine == "threads") if one_by_one else None
        self._chain = LayerChain(stack) if engine == "batched" else None
        # under vmap cross entropy is dozens of launches on a GPU, with a sort where algorithms are deterministic
        self._by_hand = not is_cpu
        if is_cpu:
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
            ValueError: another leading dimension.
        """
        for name, value in (("inputs", inputs), ("targets", targets)):
            for part in tree_leaves(value):
                self._check_agents(name, part)
        self.stack.rows.verify()
        loss = self.loss if loss is None else loss
        with torch.enable_grad(), products(self.precision, self.stack.device):
            if self._loop is not None:
                return _joined(torch.stack, self._loop.gradients(inputs, targets, loss, features))
            return self._map(inputs, targets, loss, features)

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
            ValueError: another leading dimension.
        """
        self._check_agents("inputs", inputs)
        self.stack.rows.verify()
        with products(self.precision, self.stack.device):
            found = self._outputs(inputs, whose, features)
        return in_float32(found)

    def _outputs(self, inputs: Tensor, whose: Tensor | None, features: str | None) -> Any:
        if self._loop is not None:
            models = range(self.stack.agents) if whose is None else whose.tolist()
            return _joined(torch.stack, self._loop.outputs(inputs, models, features))
        found = []
        for part in self._parts():
            rows = part if whose is None else whose[part]
            named = {name: p.detach()[rows] for name, p in self.stack.named_parameters()}
            buffers = {name: b[rows].clone() for name, b in self.stack.buffers.items()}
            with self._mapping(), returning_features(self.stack.template, features), self._cast():
                found.append(self.stack.forward(named, buffers, inputs[part]))
        return _joined(torch.cat, found)

    def _mapping(self) -> Any:
        convolution: Stacked | None = None
        if self.engine == "unfold":
            convolution = StackedConvolution.apply
        elif self.engine == "implicit":
            convolution = partial(implicit_convolution, tf32=self.precision == "tf32")
        is_needed = convolution is not None or self.precision == "bfloat16"
        return MappedLayers(convolution) if is_needed else nullcontext()

    def _check_agents(self, name: str, value: Tensor) -> None:
        if value.shape[:1] != (self.stack.agents,):
            raise ValueError(
                f"{name} must be [{self.stack.agents}, batch, ...], got {tuple(value.shape)}"
            )

    def _parts(self) -> list[slice]:
        """Agents that are mapped at once."""
        agents = self.stack.agents
        size = agents if self.chunk is None else min(self.chunk, agents)
        return [slice(first, min(first + size, agents)) for first in range(0, agents, size)]

    def _map(self, inputs: Tensor, targets: Any, loss: Loss, features: str | None) -> Any:
        if self._chain is not None:
            chained = partial(self._chain_part, self._chain, inputs, targets, loss, features)
            return _joined(torch.cat, [chained(part) for part in self._parts()])
        buffers = self.stack.pass_buffers()
        with returning_features(self.stack.template, features):
            found = [self._map_part(part, inputs, targets, loss, buffers) for part in self._parts()]
        return _joined(torch.cat, found)

    def _chain_part(
        self,
        chain: LayerChain,
        inputs: Tensor,
        targets: Any,
        loss: Loss,
        features: str | None,
        part: slice,
    ) -> Any:
        mine = tree_map(lambda t: t[part], targets)

        def backwards(got: Any) -> tuple[Any, list[Tensor | None]]:
            if _is_mean_cross_entropy(loss, got, mine):
                # one call for all agents instead of one under vmap
                return mean_cross_entropy(got, mine)
            leaves = tree_map(lambda t: t.detach().requires_grad_(), in_float32(got))
            with torch.enable_grad():
                found = torch.vmap(loss)(leaves, mine)
                total = (found[0] if isinstance(found, tuple) else found).sum()
            wanted = torch.autograd.grad(total, tree_leaves(leaves), allow_unused=True)
            return tree_map(Tensor.detach, found), list(wanted)

        with self._cast():
            return chain.gradients(part, inputs[part], backwards, features)

    def _map_part(
        self, part: slice, inputs: Tensor, targets: Any, loss: Loss, buffers: dict[str, Tensor]
    ) -> Any:
        named = {
            name: p.detach()[part].requires_grad_(p.requires_grad)
            for name, p in self.stack.named_parameters()
        }
        with self._cast():
            with self._mapping():
                outputs = self.stack.forward(
                    named, {n: b[part] for n, b in buffers.items()}, inputs[part]
                )
            mine = tree_map(lambda t: t[part], targets)
            if self._by_hand and _is_mean_cross_entropy(loss, outputs, mine):
                found, starts = mean_cross_entropy(outputs.detach(), mine)
                ends = outputs
            else:
                found = torch.vmap(loss)(in_float32(outputs), mine)
                ends, starts = (found[0] if isinstance(found, tuple) else found).sum(), None
        wanted = [p for p in named.values() if p.requires_grad]
        taken = torch.autograd.grad(ends, wanted, starts, allow_unused=True)
        gradients = dict(zip(map(id, wanted), taken, strict=True))
        for name, view in self.stack.named_gradients():
            gradient = gradients.get(id(named[name]))
            if gradient is None:
                view[part].zero_()
            else:
                view[part].copy_(gradient)
        return tree_map(Tensor.detach, found)


def _is_mean_cross_entropy(loss: Loss, outputs: Any, targets: Any) -> bool:
    """Whether `mean_cross_entropy` knows the loss: of one tensor `[agents, batch, classes]` and its labels."""
    are_tensors = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    return (
        loss is F.cross_entropy
        and are_tensors
        and outputs.dim() == 3
        and targets.shape == outputs.shape[:-1]
    )


def _joined(join: Callable[[list[Tensor]], Tensor], found: list[Any]) -> Any:
    """Equal trees of tensors as one, leaf by leaf."""
    if join is torch.cat and len(found) == 1:
        return found[0]
    return tree_map(lambda *leaves: join(list(leaves)), *found)


def _keep_freed_memory() -> None:
    """Let malloc keep what is freed: else small models spend up to a third of a step on page faults.

    glibc hands the free end of its heap back to the system when that exceeds twice the largest block that was mapped
    and freed so far (mallopt(3), M_TRIM_THRESHOLD), which activations of one agent never raise: by the accidents of the
    heap's layout a pass of 16 LeNet-5 took none or 12,800 page faults, 35 or 56 ms on one thread. One block of just
    below 32 MB, the largest that counts, raises it to 64 MB; nothing is written into it. Other allocators ignore it.
    """
    torch.empty(31 << 20, dtype=torch.uint8)
