"""n copies of a module as one flat buffer: the model of every agent, called all at once."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Integral
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.module import _IncompatibleKeys as IncompatibleKeys

from fastsaddle.metrics import consensus_mean
from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.flat_parameters import FlatParameters
from fastsaddle.ranks.errors import called_by_all
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.transposition import Transposition
from fastsaddle.stacks import losses, mapping
from fastsaddle.stacks.modules import check_module, drawn_anew

LOG = logging.getLogger(__name__)


class AgentStack:
    """`agents` copies of a module, with the parameters of all agents stacked as `[agents, *shape]`.

    Call a stack like the module, with tensors `[agents, batch, ...]`; `loss` turns the outputs into the scalar to
    differentiate. docs/stacks.md says which modules work.

    Args:
        module: the model. It is copied and stays as it is. Tied weights, one parameter with several names, stay one
            here.
        agents: number of copies; or an `fs.Placement` from `fs.place`, and this process then has the copies of its
            rank.
        init: "same" gives all agents the module's values, as the published runs do; "independent" draws each agent's
            values anew with every layer's `reset_parameters`, seeded by `(seed, agent)`.
        seed: seed of "independent".
        device: the device of all buffers; None is that of the module.

    Attributes:
        agents: number of agents in this process.
        placement: which process holds which agents; None where all are here.
        first_agent: number of the first agent here.
        x: all parameters, `[agents, stride]` float32; perturbed while an optimizer has perturbed them.
        g: the gradients of `x`, shaped alike.
        layout: where in a row each parameter lies; `layout.views(rows)` cuts rows into parameters.
        buffers: the module's buffers, such as BatchNorm statistics, by name, each stacked `[agents, ...]`.
        device: the device of all of them.
        training: whether the models are in training mode.
        template: the module that the agents are copies of. Calls take the modes of its layers from it, and nothing else
            that is changed in it later.

    Raises:
        ValueError: `agents` is no whole number >= 1, `init` is unknown, or the module has no parameters, parameters
            that are not float32, or parameters that share memory without being one object.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> outputs = stack(torch.randn(4, 8, 3))
        >>> stack.loss(torch.nn.functional.mse_loss, outputs, torch.randn(4, 8, 1)).backward()
        >>> stack.g.shape
        torch.Size([4, 128])
        >>> stack.consensus()
        Linear(in_features=3, out_features=1, bias=True)
    """

    def __init__(
        self,
        module: nn.Module,
        agents: int | Placement,
        init: Literal["same", "independent"] = "same",
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        self.placement = agents if isinstance(agents, Placement) else None
        self.first_agent = 0 if self.placement is None else self.placement.first_agent
        if isinstance(agents, Placement):
            agents = agents.agents
        if not isinstance(agents, Integral) or isinstance(agents, bool) or agents < 1:
            raise ValueError(f"agents must be a whole number >= 1, got {agents!r}")
        if init not in ("same", "independent"):
            raise ValueError(f'init must be "same" or "independent", got {init!r}')
        check_module(module)
        template = copy.deepcopy(module)
        if device is not None:
            template = template.to(device)
        self.agents: int = int(agents)
        self.template: nn.Module = template
        if init == "same":
            models = [template] * agents
        else:
            first = self.first_agent
            models = [drawn_anew(template, seed, n) for n in range(first, first + agents)]
        self._named: dict[str, nn.Parameter] = {
            named[0][0]: nn.Parameter(
                torch.stack([p.detach() for _, p in named]), requires_grad=named[0][1].requires_grad
            )
            for named in zip(*(m.named_parameters() for m in models), strict=True)
        }
        self.buffers: dict[str, torch.Tensor] = {
            named[0][0]: torch.stack([b.detach() for _, b in named])
            for named in zip(*(m.named_buffers() for m in models), strict=True)
        }
        # the kinds of calls that torch.vmap was tried with, and whether it can all of them
        self._tried: set[tuple[Any, ...]] = set()
        self._is_mapped: bool = True
        self._is_criterion_mapped: bool = True
        # buffers that forward assigns
        self._assigned: frozenset[str] = frozenset()
        self._are_frozen: bool = False
        self._called: nn.Module | None = None
        self._replicas: list[nn.Module] = []
        self._everybody: Transposition | None = (
            None if self.placement is None else Transposition(self.placement)
        )
        self._lay_out()

    def _lay_out(self) -> None:
        parameters = list(self._named.values())
        self.rows = FlatParameters.over([parameters], self.agents, True, parameters[0].device)
        self.rows.pinned = True

    def __getstate__(self) -> dict[str, Any]:
        # buffers are made for the very parameters that point into them: copies get their own
        own = ("rows", "_everybody")
        state = {name: value for name, value in self.__dict__.items() if name not in own}
        models = self.rows.models()
        if models is not self.rows.x:
            # parameters hold others, which belong to the optimizer; a copy has none
            parts = zip(self.rows.parameters, self.rows.parts(models), strict=True)
            copies = {id(p): part.clone() for p, part in parts}
            state["_models"] = [copies[id(p)] for p in self._named.values()]
        return state | {"_called": None, "_replicas": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        models = state.pop("_models", None)
        self.__dict__.update(state)
        self._everybody = None if self.placement is None else Transposition(self.placement)
        self._lay_out()
        if models is not None and (self.rows.phase is None or self.rows.phase.home is None):
            for p, model in zip(self._named.values(), models, strict=True):
                p.data.copy_(model)

    @property
    def x(self) -> torch.Tensor:
        self.rows.verify()
        return self.rows.x

    @property
    def g(self) -> torch.Tensor:
        self.rows.verify()
        # gradients may have been set to None, or assigned, since
        self.rows.collect_gradients()
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
        """All parameters, each `[agents, *shape]`, to be given to an optimizer."""
        yield from self._named.values()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters, each `[agents, *shape]`, with the module's names."""
        yield from self._named.items()

    def named_models(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The models that gradients are to be taken at, parameter by parameter, with the module's names.

        They differ from `named_parameters` where an optimizer keeps the perturbed models in a buffer of their own.
        """
        self.rows.verify()
        parts = self.rows.parts(self.rows.at)
        views = {id(p): part for p, part in zip(self.rows.parameters, parts, strict=True)}
        yield from ((name, views[id(p)]) for name, p in self._named.items())

    def named_gradients(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The gradients of all parameters, each `[agents, *shape]`, with the module's names: parts of `g`."""
        parts = self.rows.parts(self.g)
        views = {id(p): part for p, part in zip(self.rows.parameters, parts, strict=True)}
        yield from ((name, views[id(p)]) for name, p in self._named.items())

    def named_buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All buffers, each `[agents, ...]`, with the module's names."""
        yield from self.buffers.items()

    def zero_grad(self) -> None:
        """Set all gradients to zero; they stay parts of `g`."""
        self.rows.verify()
        self.rows.zero_gradients()

    def train(self, mode: bool = True) -> "AgentStack":
        """Put every agent's model into training mode, or into evaluation mode.

        Args:
            mode: True is training mode, False evaluation mode.

        Returns:
            The stack itself.
        """
        self.template.train(mode)
        # at once: a backward pass may compute parts again
        for replica in self._replicas:
            self._take_modes(replica)
        return self

    def eval(self) -> "AgentStack":
        """Put every agent's model into evaluation mode: `train(False)`.

        Returns:
            The stack itself.
        """
        return self.train(False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run every agent's model on its own batch.

        `torch.vmap` computes all agents at once. Where it cannot map the module (recurrent layers, spectral norms),
        agents run one after another, and the first call warns. Random layers such as dropout draw differently for each
        agent. Buffers change as the module's own would, whether `forward` writes into them or assigns them, but not in
        SAM's second pass and not inside `frozen_buffers()`.

        Args:
            args: as for the module. Tensors, also inside lists, tuples, dicts and other trees that torch knows, are
                `[agents, ...]`; everything else goes to all agents as it is.
            kwargs: the same, by name.

        Returns:
            What the module returns, a tensor or a tree of tensors and None, with each tensor `[agents, ...]`.

        Raises:
            ValueError: the leading dimension of a tensor is not the number of agents, an argument is a PackedSequence,
                the module returns something else, or `forward` assigns a parameter, makes a buffer that was None, or
                changes a buffer's shape, dtype or device.
        """
        arguments = mapping.Arguments(args, kwargs)
        arguments.check(self.agents)
        self._try(arguments)
        live = self.pass_buffers()
        # what is assigned is written back before the backward pass, which may need the values as they were
        passed = {n: b.clone() if n in self._assigned else b for n, b in live.items()}
        if self._is_mapped:
            outputs = mapping.mapped(self.called, self._named, passed, arguments)
        else:
            outputs = mapping.looped(self._looped(), self._named, passed, arguments)
        with torch.no_grad():
            for name, value in passed.items():
                if value is not live[name]:
                    live[name].copy_(value)
        return outputs

    def loss(self, criterion: Callable[..., torch.Tensor], *of: Any) -> torch.Tensor:
        """The mean of the agents' losses, whose `backward` gives every agent the gradient of its own loss.

        Each agent so learns as if it were alone: its gradient is not divided by the number of agents, as the gradient
        of a mean over all samples would be.

        Args:
            criterion: called with one agent's part of `of`, such as outputs `[batch, classes]` and targets `[batch]`;
                returns a scalar, the mean over that agent's batch, as `torch.nn.functional.cross_entropy` does.
            of: outputs and targets, or whatever the criterion takes: tensors `[agents, ...]`, or trees of them.

        Returns:
            A scalar.

        Raises:
            ValueError: the leading dimension of a tensor is not the number of agents, or the criterion returns no
                scalar.
        """
        arguments = mapping.Arguments(of)
        arguments.check(self.agents)
        if self._is_criterion_mapped:
            try:
                return losses.MeanLoss.apply(losses.at_once(criterion, arguments))
            # whatever a criterion may raise: where it is to blame, it does so again
            except Exception as error:
                found = losses.in_turn(criterion, arguments, self.agents)
                self._is_criterion_mapped = False
                said = f"torch.vmap cannot map the criterion: {mapping.first_sentence(error)}"
                said += "; agents are run one after another"
                LOG.info(said)
                warnings.warn(said, RuntimeWarning, stacklevel=2)
        else:
            found = losses.in_turn(criterion, arguments, self.agents)
        return losses.MeanLoss.apply(found)

    def obstacle(
        self,
        inputs: torch.Tensor,
        surroundings: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> str | None:
        """Why `torch.vmap` cannot map the module: the layer and the error, in one line. None if it can.

        It is tried on the first agent, forward and, where gradients are enabled, backward; nothing changes.

        Args:
            inputs: `[agents, batch, ...]`.
            surroundings: makes the context of a pass, such as autocast.
        """
        found = self._trial(mapping.Arguments((inputs,)), surroundings)
        return None if found is None else found.obstacle

    def _trial(
        self,
        arguments: mapping.Arguments,
        surroundings: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> mapping.Trial | None:
        return mapping.trial(self.called, self._named, self.buffers, arguments, surroundings)

    def _try(self, arguments: mapping.Arguments) -> None:
        """The first call of a kind: whether torch.vmap still maps the module, and which buffers it assigns."""
        kind = self.training, torch.is_grad_enabled(), *arguments.kind
        if kind in self._tried:
            return
        found = self._trial(arguments)
        if found is None:
            return
        self._tried.add(kind)
        self._assigned |= found.assigned
        if self._is_mapped and found.obstacle is not None:
            self._is_mapped = False
            said = f"torch.vmap cannot map {found.obstacle}; agents are run one after another"
            LOG.info(said)
            warnings.warn(said, RuntimeWarning, stacklevel=3)

    @property
    def called(self) -> nn.Module:
        """The module that calls run, in the modes of `template`.

        What `forward` keeps in attributes, such as the last weights of a spectral norm or an auxiliary loss, stays in
        it.
        """
        if self._called is None:
            self._called = mapping.copy_of(self.template)
        self._take_modes(self._called)
        return self._called

    def _looped(self) -> list[nn.Module]:
        """The modules that passes call agent after agent, in the template's mode."""
        if not self._replicas:
            # those made in inference mode could not be used outside
            with torch.inference_mode(False):
                self._replicas = [mapping.replica_of(self.template) for _ in range(self.agents)]
        for replica in self._replicas:
            self._take_modes(replica)
        return self._replicas

    def _take_modes(self, module: nn.Module) -> None:
        for mine, its in zip(module.modules(), self.template.modules(), strict=True):
            mine.training = its.training

    @property
    def buffers_rest(self) -> bool:
        """Whether calls leave the buffers as they are."""
        return self._are_frozen or self.rows.second_pass

    @contextmanager
    def frozen_buffers(self) -> Iterator[None]:
        """A context in which calls leave the buffers (running statistics, counters) as they are."""
        before, self._are_frozen = self._are_frozen, True
        try:
            yield
        finally:
            self._are_frozen = before

    def pass_buffers(self) -> dict[str, torch.Tensor]:
        """The stacked buffers by name, as one pass uses them: copies where the buffers are to stay as they are."""
        if self.buffers_rest:
            return {name: value.clone() for name, value in self.buffers.items()}
        return dict(self.buffers)

    def forward(
        self,
        parameters: Mapping[str, torch.Tensor],
        buffers: dict[str, torch.Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Run the module, mapped by `torch.vmap` over the leading dimension of parameters, buffers and arguments.

        The stack's own parameters and buffers are not touched.

        Args:
            parameters: `[agents, *shape]` by name.
            buffers: `[agents, ...]` by name; what the module assigns to a buffer is put here.
            args: as for a call of the stack.
            kwargs: the same, by name.

        Returns:
            As a call of the stack.
        """
        return mapping.mapped(self.called, parameters, buffers, mapping.Arguments(args, kwargs))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copies of all parameters and persistent buffers, `[agents, ...]`, with the names of the module's state dict.

        The parameters are the models, also while an optimizer has perturbed them.
        """
        parts = zip(self.rows.parameters, self.rows.parts(self.rows.models()), strict=True)
        models = {id(p): part for p, part in parts}
        state = {name: self._value(of) for name, of in self._state_names().items()}
        return {
            name: models.get(id(value), value).detach().clone(memory_format=torch.contiguous_format)
            for name, value in state.items()
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor], strict: bool = True) -> Any:
        """Load the state dict of a stack, or that of a plain module for all agents alike.

        Args:
            state: for each name `[agents, ...]`, or the module's own shape, which every agent then gets.
            strict: whether the names must be those of `state_dict()`. If not, missing ones keep their values and
                unexpected ones are ignored.

        Returns:
            A named tuple of the missing and the unexpected names, as from `torch.nn.Module.load_state_dict`.

        Raises:
            ValueError: a name or a shape does not fit; nothing has changed.
            RuntimeError: an optimizer has perturbed the parameters.
        """
        if self.rows.phase is not None and self.rows.phase.home is not None:
            raise RuntimeError(
                "a stack cannot be loaded while its parameters are perturbed: eval(), step() or restore() first"
            )
        names = self._state_names()
        missing = [name for name in names if name not in state]
        unexpected = [name for name in state if name not in names]
        if strict and (missing or unexpected):
            raise ValueError(
                f"the state must have the module's names, missing are {missing}, unexpected {unexpected}"
            )
        self.rows.verify()
        taken = {name: self._value(of) for name, of in names.items() if name in state}
        for name, live in taken.items():
            shape = tuple(getattr(state[name], "shape", ()))
            if not isinstance(state[name], torch.Tensor) or shape not in (
                live.shape,
                live.shape[1:],
            ):
                raise ValueError(
                    f"{name} must be {tuple(live.shape)}, or {tuple(live.shape[1:])} for all agents "
                    f"alike, got {shape if isinstance(state[name], torch.Tensor) else type(state[name])}"
                )
        for name, live in taken.items():
            live.copy_(state[name])
        return IncompatibleKeys(missing, unexpected)

    def _state_names(self) -> dict[str, str]:
        """The keys of the module's state dict, and the parameter or buffer that each of them is."""
        named = (*self.template.named_parameters(), *self.template.named_buffers())
        own = {id(tensor): name for name, tensor in named}
        state = self.template.state_dict(keep_vars=True)
        return {key: own[id(value)] for key, value in state.items() if id(value) in own}

    def _value(self, name: str) -> torch.Tensor:
        return self._named[name] if name in self._named else self.buffers[name]

    def to(self, *args: Any, **kwargs: Any) -> "AgentStack":
        """Move all parameters, gradients and buffers to a device; optimizers of the parameters follow.

        Args:
            args: as for `torch.nn.Module.to`: a device, a tensor on it, or torch.float32.
            kwargs: the same, by name.

        Returns:
            The stack itself.

        Raises:
            ValueError: another dtype is asked for.
        """
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype not in (None, torch.float32):
            raise ValueError(f"a stack is float32 and moves between devices alone, got {dtype}")
        if device is None:
            return self
        values = [p.detach().to(device, non_blocking=non_blocking) for p in self._named.values()]
        self.buffers = {
            name: b.to(device, non_blocking=non_blocking) for name, b in self.buffers.items()
        }
        self.template.to(device)
        self._called, self._replicas = None, []
        for p, value in zip(self._named.values(), values, strict=True):
            p.data = value
        self.rows.verify()
        return self

    def __repr__(self) -> str:
        lines = f"(module): {self.template}".replace("\n", "\n  ")
        size = f"agents={self.agents}, parameters={self.layout.dim}, device={self.device}"
        return f"AgentStack(\n  {size}\n  {lines}\n)"

    def agent(self, index: int, perturbed: bool = False) -> nn.Module:
        """The model of one agent as a plain module of its own.

        Args:
            index: number of the agent among those here, from 0 on; negative numbers count from the end.
            perturbed: whether to take the parameters as they are while an optimizer has perturbed them; otherwise they
                are the model's.

        Raises:
            IndexError: there is no such agent.
        """
        return self._module(
            self._values((self.x if perturbed else self.rows.models())[index]),
            {name: b[index] for name, b in self.buffers.items()},
        )

    def consensus(self, row: torch.Tensor | None = None) -> nn.Module:
        """The averaged model as a plain module: the mean of all agents' parameters.

        Floating-point buffers are averaged too; counters are agent 0's. With agents in several processes every rank
        must call it, and gets the mean of all agents.

        Args:
            row: `[stride]` float32, used in place of the agents' mean, such as an optimizer's `center`.

        Raises:
            ValueError: the row has another shape.
            PeerError: a rank did not call it.
        """
        if row is not None and row.shape != (self.layout.stride,):
            raise ValueError(f"row must be [{self.layout.stride}], got {tuple(row.shape)}")
        with called_by_all("consensus()"):
            return self._module(
                self._values(self._mean() if row is None else row),
                {
                    name: b.mean(0) if b.is_floating_point() else b[0]
                    for name, b in ((name, self._of_all(b)) for name, b in self.buffers.items())
                },
            )

    def _mean(self) -> torch.Tensor:
        """The mean of all agents' rows, `[stride]`."""
        models = self.rows.models()
        return consensus_mean(models) if self._everybody is None else self._everybody.mean(models)

    def _of_all(self, rows: torch.Tensor) -> torch.Tensor:
        """All agents' rows, also those of other processes."""
        return rows if self._everybody is None else self._everybody.rows(rows)

    def _values(self, row: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters that a row `[stride]` holds, by name."""
        parts = self.layout.views(row[None])
        values = {id(p): part[0] for p, part in zip(self.rows.parameters, parts, strict=True)}
        return {name: values[id(p)] for name, p in self._named.items()}

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
