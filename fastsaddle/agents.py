"""n copies of a module as one flat buffer: the model of every agent, called all at once."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from fastsaddle import mapping
from fastsaddle.metrics import consensus_mean
from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.flat_parameters import FlatParameters


class AgentStack:
    """`agents` copies of `module`; parameter `name` of all agents is one Parameter `[agents, *shape]`.

    Args:
        module: the model; it is copied and stays as it is.
        agents: how many copies.
        init: "same" gives all agents the module's values (what the published runs do); "independent" draws each
            agent's values anew with every layer's `reset_parameters`, seeded with `(seed, agent)`.
        seed: for "independent".
        device: where the buffers lie; default: where the module is.

    Attributes:
        x: all parameters, `[agents, stride]` float32; g: their gradients, the same shape.
        buffers: the module's buffers (BatchNorm statistics), stacked `[agents, ...]`, by name.

    Raises:
        ValueError: fewer than one agent, no parameters, an unknown `init`, or parameters that are not float32.
    """

    def __init__(
        self,
        module: nn.Module,
        agents: int,
        init: Literal["same", "independent"] = "same",
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        if agents < 1:
            raise ValueError(f"agents must be at least 1, got {agents}")
        if init not in ("same", "independent"):
            raise ValueError(f'init must be "same" or "independent", got {init!r}')
        template = copy.deepcopy(module)
        if device is not None:
            template = template.to(device)
        self.agents = agents
        self.template = template
        if init == "same":
            models = [template] * agents
        else:
            models = [drawn_anew(template, seed, agent) for agent in range(agents)]
        self._named = {
            named[0][0]: nn.Parameter(
                torch.stack([p.detach() for _, p in named]), requires_grad=named[0][1].requires_grad
            )
            for named in zip(*(m.named_parameters() for m in models), strict=True)
        }
        self.buffers = {
            named[0][0]: torch.stack([b.detach() for _, b in named])
            for named in zip(*(m.named_buffers() for m in models), strict=True)
        }
        # the modes, (training, with gradients), that torch.vmap was tried in, and whether it can in all of them
        self._tried: set[tuple[bool, bool]] = set()
        self._is_mapped = True
        self._spare: nn.Module | None = None
        self._lay_out()

    def _lay_out(self) -> None:
        parameters = list(self._named.values())
        if not parameters:
            raise ValueError("at least one parameter is needed, got none")
        for number, p in enumerate(parameters):
            if p.dtype != torch.float32:
                raise ValueError(
                    f"a stack's parameters must be float32, got {p.dtype} for parameter {number}: "
                    "module.float() makes them so, and torch.autocast computes in bfloat16"
                )
        self.rows = FlatParameters.over([parameters], self.agents, True, parameters[0].device)
        self.rows.pinned = True

    def __getstate__(self) -> dict[str, Any]:
        # buffers are made for the very parameters that point into them: copies get their own
        return {name: value for name, value in self.__dict__.items() if name != "rows"} | {
            "_spare": None
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lay_out()

    @property
    def x(self) -> torch.Tensor:
        self.rows.verify()
        return self.rows.x

    @property
    def g(self) -> torch.Tensor:
        self.rows.verify()
        return self.rows.g

    @property
    def layout(self) -> FlatLayout:
        return self.rows.layout

    @property
    def device(self) -> torch.device:
        return self.rows.x.device

    @property
    def training(self) -> bool:
        return self.template.training

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters, each `[agents, *shape]`."""
        yield from self._named.values()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters with the module's names."""
        yield from self._named.items()

    def named_gradients(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The part of `g` that belongs to each parameter, `[agents, *shape]`, with the module's names."""
        parts = self.rows.parts(self.g)
        views = {id(p): part for p, part in zip(self.rows.parameters, parts, strict=True)}
        yield from ((name, views[id(p)]) for name, p in self._named.items())

    def train(self, mode: bool = True) -> "AgentStack":
        self.template.train(mode)
        return self

    def eval(self) -> "AgentStack":
        return self.train(False)

    def __call__(self, inputs: torch.Tensor) -> Any:
        """Every agent's model on its own batch: `[agents, batch, ...]` to `[agents, batch, ...]`.

        A module that returns a tree of tensors gives the same tree, each leaf `[agents, ...]`. All agents are computed
        at once by `torch.vmap`; where it cannot map the module (recurrent layers, spectral norms), agent after agent,
        which the first call says in a warning. Random layers (dropout) draw differently for each agent. Running
        statistics move in training mode, but not in SAM's second pass.

        Raises:
            ValueError: the leading dimension is not the number of agents.
        """
        if inputs.shape[:1] != (self.agents,):
            raise ValueError(
                f"inputs must be [{self.agents}, batch, ...], one batch an agent, "
                f"got {tuple(inputs.shape)}"
            )
        if self._can_be_mapped(inputs):
            return self.forward(self._named, self.pass_buffers(), inputs)
        return mapping.looped(self._spare_module(), self._named, self.pass_buffers(), inputs)

    def obstacle(
        self,
        inputs: torch.Tensor,
        surroundings: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> str | None:
        """Why `torch.vmap` cannot map the module: its layer and the error, in one line; None where it can.

        It is tried on the first agent, forward and, where gradients are enabled, backward; everything stays as it was.

        Args:
            inputs: `[agents, batch, ...]`.
            surroundings: makes the context of a pass, such as autocast.
        """
        spare = self._spare_module()
        return mapping.obstacle(spare, self._named, self.buffers, inputs, surroundings)

    def _can_be_mapped(self, inputs: torch.Tensor) -> bool:
        """Whether torch.vmap maps the module in every mode that it was called in, this one tried if it is new."""
        mode = self.training, torch.is_grad_enabled()
        if self._is_mapped and mode not in self._tried:
            self._tried.add(mode)
            reason = self.obstacle(inputs)
            if reason is not None:
                self._is_mapped = False
                said = f"torch.vmap cannot map {reason}; agents are run one after another"
                warnings.warn(said, RuntimeWarning, stacklevel=3)
        return self._is_mapped

    def _spare_module(self) -> nn.Module:
        """The module in the template's mode, to be called where something of the call may stay in it.

        Modules keep such things as attributes (spectral norms their last weights), and could not be copied then.
        """
        if self._spare is None:
            self._spare = mapping.copy_of(self.template)
        for mine, its in zip(self._spare.modules(), self.template.modules(), strict=True):
            mine.training = its.training
        return self._spare

    def pass_buffers(self) -> dict[str, torch.Tensor]:
        """The stacked buffers for one pass: copies in SAM's second pass, so that statistics stay."""
        if self.rows.second_pass:
            return {name: value.clone() for name, value in self.buffers.items()}
        return self.buffers

    def forward(
        self,
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
        inputs: torch.Tensor,
    ) -> Any:
        """The module mapped over the leading dimension of parameters, buffers and inputs by `torch.vmap`."""
        return mapping.mapped(self.template, parameters, buffers, inputs)

    def agent(self, index: int) -> nn.Module:
        """Agent `index`'s model as a plain module of its own."""
        return self._module(
            {name: p[index] for name, p in self._named.items()},
            {name: b[index] for name, b in self.buffers.items()},
        )

    def consensus(self, row: torch.Tensor | None = None) -> nn.Module:
        """The averaged model as a plain module; statistics are averaged, counters taken from agent 0.

        `row` `[stride]` float32, such as an optimizer's `center`, takes the place of the agents' mean.
        """
        parts = self.layout.views((consensus_mean(self.x) if row is None else row)[None])
        values = {id(p): part[0] for p, part in zip(self.rows.parameters, parts, strict=True)}
        return self._module(
            {name: values[id(p)] for name, p in self._named.items()},
            {
                name: b.mean(0) if b.is_floating_point() else b[0]
                for name, b in self.buffers.items()
            },
        )

    def _module(
        self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor]
    ) -> nn.Module:
        module = copy.deepcopy(self.template)
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(parameters[name])
            for name, b in module.named_buffers():
                b.copy_(buffers[name])
        return module


def drawn_anew(module: nn.Module, seed: int, agent: int) -> nn.Module:
    """A copy whose layers with `reset_parameters` drew new values; the global generator is left as it was."""
    drawn = copy.deepcopy(module)
    with torch.random.fork_rng():
        torch.manual_seed(seed * 1_000_003 + agent)
        for layer in drawn.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
    return drawn
