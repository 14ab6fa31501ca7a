"""Gradients of all agents into the flat gradient buffer: mapped over agents at once, or agent after agent."""

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves, tree_map

from fastsaddle.agents import AgentStack
from fastsaddle.sim.features import returning_features
from fastsaddle.sim.layer_chain import LayerChain, layers_of, mean_cross_entropy

# of one agent: outputs and targets to a scalar, or to (scalar, more that is to be returned)
Loss = Callable[[Any, Any], Any]


# mapping has a fixed cost that fewer agents do not earn back on a CPU: 4 took 1.2 times as long as the loop
FEW_AGENTS = 8
# larger parts leave the caches and the allocator's memory: 1,024 agents took 1.2 times as long all at once
CPU_CHUNK = 64


def choose_engine(
    module: nn.Module, device: torch.device, agents: int
) -> Literal["vmap", "loop", "batched"]:
    """The engine for a network, by a fixed rule from measurements (benchmarks/test_stacking_tax.py, peers.py).

    Chains of linear and elementwise layers are batched, whose products write into the gradient buffer: under vmap the
    perceptron 784-50-10 took 1.7 times as long. A single agent is run by itself on a CPU.
    On a CPU networks with convolutions run agent after agent: vmap turns their per-agent weights into grouped
    convolutions, which took 1.3 to 2 times as long as the loop for LeNet-5. So do networks with embeddings, whose
    attention took 1.1 to 2.4 times as long for the transformer. Recurrent layers cannot be mapped.
    Fewer than 8 agents run one after the other there too. Everything else is mapped. On a GPU all but recurrent
    networks are batched or mapped, as a loop would be bound by launches; that half of the rule has not been measured.
    """
    if device.type == "cpu" and agents == 1:
        return "loop"
    if layers_of(module) is not None:
        return "batched"
    layers = list(module.modules())
    if any(isinstance(layer, nn.RNNBase) for layer in layers):
        return "loop"
    if device.type == "cpu" and agents < FEW_AGENTS:
        return "loop"
    if device.type == "cpu" and any(isinstance(layer, (_ConvNd, nn.Embedding)) for layer in layers):
        return "loop"
    return "vmap"


class GradientEngine:
    """Evaluates every agent's loss and gradient on its own batch.

    Engines agree up to rounding, not in the last bits: a run that is to be repeated keeps engine and chunk.

    Args:
        stack: the agents.
        loss: `(outputs [batch, ...], targets [batch, ...]) -> scalar`, for one agent.
        engine: "vmap", "loop", "batched", or "auto" for the rule of `choose_engine`.
        chunk: agents mapped at once, bounding the memory of activations; None is 64 on a CPU, all elsewhere. The
            loop ignores it.

    Attributes:
        engine, chunk: what was resolved.

    Raises:
        ValueError: unknown engine, a chunk below 1, or "batched" for a network that is no chain of linear layers.
    """

    def __init__(
        self, stack: AgentStack, loss: Loss, engine: str = "auto", chunk: int | None = None
    ) -> None:
        if engine not in ("auto", "vmap", "loop", "batched"):
            raise ValueError(f"engine must be auto, vmap, loop or batched, got {engine!r}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1 agent, got {chunk}")
        self.stack, self.loss = stack, loss
        if engine == "auto":
            engine = choose_engine(stack.template, stack.device, stack.agents)
        self.engine = engine
        if chunk is None and stack.device.type == "cpu" and stack.agents > CPU_CHUNK:
            chunk = CPU_CHUNK
        self.chunk = None if self.engine == "loop" else chunk
        self._chain = LayerChain(stack) if engine == "batched" else None
        self._replicas: list[nn.Module] = []
        self._version = -1

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
        with torch.enable_grad():
            run = self._loop if self.engine == "loop" else self._map
            return run(inputs, targets, loss, features)

    @torch.no_grad()
    def outputs(
        self, inputs: Tensor, whose: Tensor | None = None, features: str | None = None
    ) -> Any:
        """Outputs `[agents, batch, ...]` without gradients, in the stack's mode; running statistics rest.

        Args:
            inputs: `[agents, batch, ...]`.
            whose: int64 `[agents]`: which agent's model each batch is put into; None: its own agent's.
            features: name of a layer whose input, stacked likewise, is to be returned too: (outputs, input).

        Raises:
            ValueError: another leading dimension.
        """
        self._check_agents("inputs", inputs)
        self.stack.rows.verify()
        if self.engine == "loop":
            models = range(self.stack.agents) if whose is None else whose.tolist()
            return self._loop_outputs(inputs, models, features)
        found = []
        for part in self._parts():
            rows = part if whose is None else whose[part]
            named = {name: p.detach()[rows] for name, p in self.stack.named_parameters()}
            buffers = {name: b[rows].clone() for name, b in self.stack.buffers.items()}
            with returning_features(self.stack.template, features):
                found.append(self.stack.forward(named, buffers, inputs[part]))
        return _joined(torch.cat, found)

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
            parts = self._parts()
            return _joined(
                torch.cat,
                [
                    self._chain_part(part, self._chain, inputs, targets, loss, features)
                    for part in parts
                ],
            )
        buffers = self.stack.pass_buffers()
        with returning_features(self.stack.template, features):
            found = [self._map_part(part, inputs, targets, loss, buffers) for part in self._parts()]
        return _joined(torch.cat, found)

    def _chain_part(
        self,
        part: slice,
        chain: LayerChain,
        inputs: Tensor,
        targets: Any,
        loss: Loss,
        features: str | None,
    ) -> Any:
        mine = tree_map(lambda t: t[part], targets)

        def backwards(got: Any) -> tuple[Any, list[Tensor | None]]:
            is_one = isinstance(got, Tensor) and isinstance(mine, Tensor)
            if (
                loss is F.cross_entropy
                and is_one
                and mine.shape == got.shape[:-1]
                and got.dim() == 3
            ):
                # one call for all agents instead of one under vmap
                return mean_cross_entropy(got, mine)
            leaves = tree_map(lambda t: t.detach().requires_grad_(), got)
            with torch.enable_grad():
                found = torch.vmap(loss)(leaves, mine)
                total = (found[0] if isinstance(found, tuple) else found).sum()
            wanted = torch.autograd.grad(total, tree_leaves(leaves), allow_unused=True)
            return tree_map(Tensor.detach, found), list(wanted)

        return chain.gradients(part, inputs[part], backwards, features)

    def _map_part(
        self, part: slice, inputs: Tensor, targets: Any, loss: Loss, buffers: dict[str, Tensor]
    ) -> Any:
        named = {
            name: p.detach()[part].requires_grad_(p.requires_grad)
            for name, p in self.stack.named_parameters()
        }
        outputs = self.stack.forward(named, {n: b[part] for n, b in buffers.items()}, inputs[part])
        found = torch.vmap(loss)(outputs, tree_map(lambda t: t[part], targets))
        losses = found[0] if isinstance(found, tuple) else found
        wanted = [p for p in named.values() if p.requires_grad]
        taken = torch.autograd.grad(losses.sum(), wanted, allow_unused=True)
        gradients = dict(zip(map(id, wanted), taken, strict=True))
        for name, view in self.stack.named_gradients():
            gradient = gradients.get(id(named[name]))
            if gradient is None:
                view[part].zero_()
            else:
                view[part].copy_(gradient)
        return tree_map(Tensor.detach, found)

    def _loop(self, inputs: Tensor, targets: Any, loss: Loss, features: str | None) -> Any:
        models = self._models()
        still = self.stack.rows.second_pass
        kept = {n: b.clone() for n, b in self.stack.buffers.items()} if still else {}
        self.stack.g.zero_()
        all_found = []
        try:
            for agent, (model, batch) in enumerate(zip(models, inputs, strict=True)):
                with returning_features(model, features):
                    outputs = model(batch)
                found = loss(outputs, tree_map(lambda t, agent=agent: t[agent], targets))
                (found[0] if isinstance(found, tuple) else found).backward()
                all_found.append(tree_map(Tensor.detach, found))
        finally:
            for name, value in kept.items():
                self.stack.buffers[name].copy_(value)
        return _joined(torch.stack, all_found)

    def _loop_outputs(self, inputs: Tensor, whose: Iterable[int], features: str | None) -> Any:
        models = self._models()
        kept = {n: b.clone() for n, b in self.stack.buffers.items()}
        found = []
        try:
            for agent, batch in zip(whose, inputs, strict=True):
                with returning_features(models[agent], features):
                    found.append(models[agent](batch))
        finally:
            for name, value in kept.items():
                self.stack.buffers[name].copy_(value)
        return _joined(torch.stack, found)

    def _models(self) -> list[nn.Module]:
        """Every agent's plain module, in the stack's mode."""
        if self._version != self.stack.rows.version:
            self._replicas = replicas(self.stack)
            self._version = self.stack.rows.version
        return [model.train(self.stack.training) for model in self._replicas]


def _joined(join: Callable[[list[Tensor]], Tensor], found: list[Any]) -> Any:
    """Equal trees of tensors as one, leaf by leaf."""
    if join is torch.cat and len(found) == 1:
        return found[0]
    return tree_map(lambda *leaves: join(list(leaves)), *found)


def replicas(stack: AgentStack) -> list[nn.Module]:
    """Plain modules, one an agent, whose parameters, gradients and buffers are that agent's rows of the stack."""
    parameters, gradients = dict(stack.named_parameters()), dict(stack.named_gradients())
    models = []
    for agent in range(stack.agents):
        model = copy.deepcopy(stack.template)
        for name, p in model.named_parameters():
            p.data = parameters[name].detach()[agent]
            p.grad = gradients[name][agent] if p.requires_grad else None
        for name, b in model.named_buffers():
            b.data = stack.buffers[name][agent]
        models.append(model)
    return models
