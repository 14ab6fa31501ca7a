"""Any torch optimizer for the local steps: one for each agent, on that agent's rows of the flat buffers."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Parameter
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.base import Communicator, Round
from fastsaddle.graphs.needs import GraphNeeds
from fastsaddle.optimizer.hyperparameters import differ
from fastsaddle.optimizer.rows import Rows
from fastsaddle.rules.base import Rule

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer

# parameters, or groups of them, of one agent to what steps them
Local = Callable[[ParamsT], torch.optim.Optimizer]


class Torch(Rule):
    """Local steps of any torch optimizer, one for each agent; then the models are mixed, if the step mixes.

    Learning rates are read from this optimizer's groups at every step (from a tensor `[agents]`, each agent's own);
    weight decay and maximize belong to the local optimizers. Their state is saved with this optimizer's, as `local`.

    Args:
        local: makes the torch optimizer of one agent from its parameters (from groups of them if this optimizer has
            several), such as `lambda p: torch.optim.AdamW(p, weight_decay=0.01)`.

    Raises:
        ValueError: not a callable; or, when an optimizer is made with it: weight decay or maximize is given, or the
            callable makes no torch optimizer, or one with other groups.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> rule = fs.rules.Torch(lambda p: torch.optim.AdamW(p, weight_decay=0.01))
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(), lr=1e-3, rule=rule, communicator=fs.comm.Gossip("ring")
        ... )
    """

    needs = GraphNeeds(symmetric=False)
    decides_on_host = "local optimizers step one after the other, as norms read on the host say"

    def __init__(self, local: Local) -> None:
        super().__init__()
        if not callable(local):
            raise ValueError(
                f"local must be a callable from parameters to a torch optimizer, got {local!r}"
            )
        self.local = local

    def refuses(self, communicator: Communicator) -> str | None:
        if communicator.is_compressed:
            return f"{self.name} takes no compressor"
        return None

    def check_groups(self, groups: list[dict[str, Any]]) -> None:
        for group in groups:
            if group["maximize"] or differ(group["weight_decay"], 0):
                raise ValueError(
                    "weight_decay and maximize belong to the optimizers that local= makes, got "
                    f"weight_decay {group['weight_decay']} and maximize {group['maximize']}"
                )

    def bind(self, optimizer: Optimizer) -> None:
        if optimizer.locals is None:
            optimizer.locals = LocalOptimizers(self.local, optimizer)
        optimizer.locals.attach(optimizer)

    def advance(self, groups: list[tuple[Rows, Round]], optimizer: Optimizer) -> None:
        assert optimizer.locals is not None
        if groups:
            optimizer.locals.step(optimizer, groups[0][0].norm)
        for rows, comm in groups:
            if comm.gossips:
                rows.x.copy_(comm.mixed(rows.x))


class LocalOptimizers:
    """One optimizer an agent, made by `make`, stepping the owner's parameters where they lie.

    Args:
        make: takes one agent's parameters, or groups of them where the owner has several.
        owner: whose learning rates are read, group by group, at every step.

    Raises:
        ValueError: `make` gives no torch optimizer, or one with other groups.
    """

    def __init__(self, make: Local, owner: Optimizer) -> None:
        groups = [group["params"] for group in owner.param_groups]
        self._stacked = owner.stacked
        self.parameters = [
            [
                [Parameter(self._of(agent, p.detach()).float(), p.requires_grad) for p in group]
                for group in groups
            ]
            for agent in range(owner.agents)
        ]
        self.optimizers = []
        for mine in self.parameters:
            given = mine[0] if len(mine) == 1 else [{"params": group} for group in mine]
            optimizer = make(given)
            if not isinstance(optimizer, torch.optim.Optimizer) or len(
                optimizer.param_groups
            ) != len(groups):
                raise ValueError(
                    f"local must make a torch optimizer with {len(groups)} parameter groups, got {optimizer!r}"
                )
            self.optimizers.append(optimizer)
        self._held = [Held(optimizer) for optimizer in self.optimizers]
        # each parameter with its gradient and its address, as they were attached to these rows of this version
        self._attached: list[tuple[Parameter, torch.Tensor | None, int]] = []
        self._rows: tuple[Any, int] = (None, -1)

    def _of(self, agent: int, tensor: torch.Tensor) -> torch.Tensor:
        """An agent's part of a parameter, its gradient or its rows; a single agent's may be ordinary ones."""
        return tensor[agent] if self._stacked else tensor

    def attach(self, owner: Optimizer) -> None:
        """Point parameters and gradients at the owner's buffers, wherever those lie now; frozen ones at the owner's."""
        theirs = owner.parameters
        rows = owner.rows
        parts = zip(rows.parts(rows.x), rows.parts(rows.g), strict=True)
        lying = dict(zip(map(id, rows.parameters), parts, strict=True))
        self._attached, self._rows = [], (None, -1)
        attached = []
        for agent, groups in enumerate(self.parameters):
            mine = [p for group in groups for p in group]
            if [p.shape for p in mine] != [self._of(agent, p).shape for p in theirs]:
                raise ValueError(
                    "parameters cannot be added to an optimizer with local optimizers of its own"
                )
            for p, whole in zip(mine, theirs, strict=True):
                p.requires_grad_(whole.requires_grad)
                p.grad = None
                if whole.requires_grad:
                    value, gradient = lying[id(whole)]
                    p.data = self._of(agent, value)
                    p.grad = self._of(agent, gradient)
                else:
                    # it has no columns, and would keep alive those that it had
                    p.data = self._of(agent, whole.detach()).float()
                attached.append((p, p.grad, p.data_ptr()))
        self._attached, self._rows = attached, (rows, rows.version)

    def _is_attached(self, owner: Optimizer) -> bool:
        """Whether nothing was laid out anew, and no local optimizer has put others in the place of its tensors."""
        rows, version = self._rows
        return (
            rows is owner.rows
            and version == rows.version
            and all(p.grad is grad and p.data_ptr() == at for p, grad, at in self._attached)
        )

    def step(self, owner: Optimizer, norm: torch.Tensor) -> None:
        """A step of every agent whose gradient norm, of `norm` `[agents]`, is finite."""
        if not self._is_attached(owner):
            self.attach(owner)
        rates = [each_rate(group["lr"], len(self.optimizers)) for group in owner.param_groups]
        for agent, finite in enumerate(norm.isfinite().tolist()):
            if finite:
                optimizer = self.optimizers[agent]
                for group, lr in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = lr[agent]
                optimizer.step()

    def remember(self) -> None:
        """Keep what all optimizers hold now, for `put_back`."""
        for held in self._held:
            held.remember()

    def put_back(self) -> None:
        """Let all optimizers hold what they held at the last `remember`, after a step that failed."""
        for held in self._held:
            held.put_back()

    def state_dicts(self) -> list[dict[str, Any]]:
        """What every agent's optimizer keeps."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dicts(self, states: list[dict[str, Any]]) -> None:
        """Take over what `state_dicts` gave; ValueError for another number of agents."""
        if len(states) != len(self.optimizers):
            raise ValueError(
                f"local states must be those of {len(self.optimizers)} agents, got {len(states)}"
            )
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


class Held:
    """What a torch optimizer held before a step, state and groups, in memory that is used again.

    Args:
        optimizer: of any kind; what it keeps as attributes of its own is not seen.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._memory: dict[tuple[Any, str], torch.Tensor] = {}
        self._states: dict[Any, dict[str, Any]] = {}
        self._groups: list[dict[str, Any]] = []

    def remember(self) -> None:
        self._states = {
            p: {name: (value, self._copy(p, name, value)) for name, value in state.items()}
            for p, state in self.optimizer.state.items()
        }
        self._groups = [
            {name: deepcopy(value) for name, value in group.items() if name != "params"}
            for group in self.optimizer.param_groups
        ]

    def _copy(self, p: Any, name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return deepcopy(value)
        memory = self._memory.get((p, name))
        if memory is None or differs(memory, value):
            memory = self._memory[p, name] = torch.empty_like(value)
        return memory.copy_(value)

    def put_back(self) -> None:
        self.optimizer.state.clear()
        for p, state in self._states.items():
            for name, (value, before) in state.items():
                is_tensor = isinstance(value, torch.Tensor)
                self.optimizer.state[p][name] = value.copy_(before) if is_tensor else before
        for group, before in zip(self.optimizer.param_groups, self._groups, strict=True):
            for name in group.keys() - before.keys() - {"params"}:
                del group[name]
            group.update(before)


def differs(memory: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether memory cannot hold a value as it is."""
    kinds = [(t.shape, t.dtype, t.device) for t in (memory, value)]
    return kinds[0] != kinds[1]


def each_rate(lr: Any, agents: int) -> list[Any]:
    """Each agent's learning rate; a tensor of one number is left to optimizers that take such."""
    if isinstance(lr, torch.Tensor) and lr.numel() > 1:
        return lr.tolist()
    return [lr] * agents
