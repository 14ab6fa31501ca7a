"""What all decentralized optimizers share: flat buffers, hyperparameters as tensors, state, checks."""

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.base import Communicator, Exchange, LocalStep
from fastsaddle.comm.choco import Choco, CompressedGossip
from fastsaddle.comm.stacked import Stacked
from fastsaddle.compressors.base import Compressor
from fastsaddle.compressors.identity import Identity
from fastsaddle.flat_parameters import FlatParameters
from fastsaddle.hyperparameters import Scalars, check_group
from fastsaddle.kernels._op import rooms, use_backend
from fastsaddle.kernels.agent_norm import agent_norm
from fastsaddle.topology import Topology, resolve
from fastsaddle.wire import NonFiniteError

Closure = Callable[[], Any]
# 2^64 over the golden ratio: seeds of parameter groups lie far apart
GROUP_STRIDE = 0x9E3779B97F4A7C15


class NonFiniteGradientError(NonFiniteError):
    """A gradient holds NaN or infinity; parameters and state are as they were before the step."""


class DecentralizedOptimizer(torch.optim.Optimizer):
    """Base of the gossip methods: local steps on every agent's row, then mixing along the graph.

    Subclasses say which momentum they keep (`kind`, `state_name`) and set the defaults of their groups.

    Attributes:
        rows: the flat buffers that the parameters and gradients are views of.
        communicator: how models travel.
        flat_state: state buffers by name, each `[agents, stride]` float32; `state[p][name]` are views of them.
        bytes_sent: bytes that all agents together sent, scales and indices included; settable, for resuming.
        rounds: int64, 0-d: gossip rounds done; with a compressor it is in `state` as `step`.
        squares: `[agents, 2]` float64: of the last step, the squared norms of what was to be sent (with a compressor:
            the difference to the public copy) and of what compression lost; zeros without a compressor.
        skipped: `[agents]` int32, gradient evaluations that were not finite.
    """

    # 0 no momentum, 1 local, 2 quasi-global; and the name its buffer has in `state`
    kind: ClassVar[int] = 0
    state_name: ClassVar[str | None] = None

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        topology: Topology | str | None,
        compressor: Compressor | Choco | None,
        consensus_step: float,
        nonfinite: str,
        backend: str | None,
        seed: int,
    ) -> None:
        choco = as_choco(compressor)
        if nonfinite not in ("raise", "skip"):
            raise ValueError(f'nonfinite must be "raise" or "skip", got {nonfinite!r}')
        if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
            raise ValueError(f"seed must be a whole number in [0, 2^63), got {seed}")
        check_group(defaults)
        self._bound = False
        super().__init__(params, defaults)
        # numpy's integers would overflow in the groups' seeds
        self.seed, self.nonfinite, self.backend = int(seed), nonfinite, backend
        self.stacked = topology is not None
        graph = None if topology is None else resolve(topology, self._stacked_agents())
        if graph is not None and not torch.allclose(graph.W, graph.W.T, rtol=0, atol=1e-6):
            raise ValueError(
                f"{type(self).__name__} needs a symmetric mixing matrix, {graph} is not"
            )
        self.communicator = communicator_of(graph, consensus_step, choco)
        self.agents = self.communicator.agents
        self.bytes_sent = 0
        for group in self.param_groups:
            check_group(group, self.agents)
        self._check_backend()
        self._bind()

    def _check_backend(self) -> None:
        with use_backend(self.backend):
            for p in (p for group in self.param_groups for p in group["params"]):
                for room in rooms().values():
                    room.choice(p.device)
                return

    def _stacked_agents(self) -> int:
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.dim() == 0:
                raise ValueError(
                    "with a topology parameters must be stacked as [agents, ...], got a 0-d one"
                )
            return p.shape[0]
        raise ValueError("at least one parameter is needed, got none")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, at any time: the flat buffers are laid out anew and state is carried over."""
        super().add_param_group(param_group)
        if self._bound:
            try:
                check_group(self.param_groups[-1], self.agents)
                self._bind()
            except Exception:
                self.param_groups.pop()
                raise

    def _bind(self) -> None:
        """Lay parameters, gradients and state out flat; copies what `state` holds, zeros the rest."""
        groups = [group["params"] for group in self.param_groups]
        self.rows = FlatParameters.over(groups, self.agents, self.stacked)
        self._version = self.rows.version
        device = self.rows.x.device
        # the parameters of this optimizer lie first; an AgentStack's others have no state here
        mine = [p for group in groups for p in group]
        momentum = () if self.state_name is None else (self.state_name,)
        self.flat_state = {
            name: self._bind_state(name, mine)
            for name in (*momentum, *self.communicator.state_names)
        }
        self._bind_rounds(mine, device)
        self._layouts = [self.rows.layout.group(index) for index in range(len(groups))]
        self.squares = torch.zeros(self.agents, 2, dtype=torch.float64, device=device)
        skipped = getattr(self, "skipped", None)
        self.skipped = torch.zeros(self.agents, dtype=torch.int32, device=device)
        if skipped is not None:
            self.skipped.copy_(skipped)
        self._scalars = Scalars(self.agents, device)
        self.dim = sum(p.numel() for group in groups for p in group) // self.agents
        self._bound = True

    def _bind_state(self, name: str, mine: list[torch.nn.Parameter]) -> torch.Tensor:
        """A buffer `[agents, stride]` with what parameters hold as their state `name`, which become its views."""
        buffer = self.rows.layout.allocate(self.agents, self.rows.x.device)
        for p, part in zip(mine, self.rows.parts(buffer), strict=False):
            held = self.state[p].get(name)
            if held is not None:
                part.copy_(held)
            self.state[p][name] = part
        return buffer

    def _bind_rounds(self, mine: list[torch.nn.Parameter], device: torch.device) -> None:
        """One counter for all parameters, kept as their state where messages are drawn by it."""
        held = getattr(self, "rounds", None)
        self.rounds = torch.zeros((), dtype=torch.int64, device=device)
        if self.communicator.state_names:
            held = next((self.state[p]["step"] for p in mine if "step" in self.state[p]), held)
            for p in mine:
                self.state[p]["step"] = self.rounds
        if held is not None:
            self.rounds.copy_(held)

    def _count(self) -> int:
        return sum(len(group["params"]) for group in self.param_groups)

    def _follow(self) -> None:
        """Find parameters that were moved, by hand or into other buffers, and lay the state out like them."""
        if self.rows.deserted:
            self._bind()
        self.rows.verify()
        if self._version != self.rows.version:
            self._bind()

    def _prepare(self) -> None:
        """Before a step: gradients in the flat buffer, state laid out like the parameters."""
        self._follow()
        self.rows.collect_gradients()

    def _columns(self, index: int) -> slice:
        """Column range of group `index`."""
        return slice(*self.rows.layout.ranges[index])

    def _first_columns(self, groups: int) -> slice:
        """Columns of the first `groups` groups together."""
        return slice(0, self.rows.layout.ranges[groups - 1][1] if groups else 0)

    def _scalar(self, index: int, name: str) -> torch.Tensor:
        """Group `index`'s hyperparameter as a float32 tensor on the device."""
        return self._scalars.read(self.param_groups[index], index, name)

    def _check_gradients(
        self, scale: torch.Tensor | None = None, gate: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Norms of all gradients, `[agents]`; on a CPU a non-finite one raises now where that was asked for.

        `scale` (rows like the gradients) and `gate` are the room's.
        """
        columns = self._first_columns(len(self.param_groups))
        norm = torch.empty(self.agents, dtype=torch.float32, device=self.skipped.device)
        scale = None if scale is None else scale[:, columns]
        agent_norm(self.rows.g[:, columns], scale, gate, norm, self.skipped)
        if self.nonfinite == "raise" and norm.device.type == "cpu" and not norm.isfinite().all():
            self.raise_if_skipped()
        return norm

    def raise_if_skipped(self) -> None:
        """Raise NonFiniteGradientError if a gradient was not finite since the last call (`nonfinite="raise"`).

        On a CPU `step()` does so by itself, before anything changes. On a GPU the agent's update is skipped without
        a host synchronization; call this whenever results are read. Saving the state calls it too.
        """
        if self.nonfinite == "raise" and bool(self.skipped.any()):
            agents = self.skipped.nonzero().flatten().tolist()
            self.skipped.zero_()
            raise NonFiniteGradientError(
                f"gradients must be finite, got NaN or infinity for agents {agents}; "
                'their updates were not made (nonfinite="skip" leaves such agents out instead)'
            )

    def _gossip(self, saved: torch.Tensor | None, norm: torch.Tensor) -> None:
        """One step of every group: local step, mixing, momentum."""
        # all read before the first group moves: a bad value must leave nothing half done
        steps = [self._local_step(index, saved, norm) for index in range(len(self.param_groups))]
        self.squares.zero_()
        for index, step in enumerate(steps):
            columns = self._columns(index)
            if columns.stop > columns.start:
                x, exchange = self.rows.x[:, columns], self._exchange(index)
                self.bytes_sent += self.communicator.gossip_step_(x, step, exchange)
        self.rounds.add_(1)

    def _local_step(self, index: int, saved: torch.Tensor | None, norm: torch.Tensor) -> LocalStep:
        group, columns = self.param_groups[index], self._columns(index)
        momentum = self.flat_state.get(self.state_name or "")
        mu = "momentum" if group.get("qg_momentum") is None else "qg_momentum"
        return LocalStep(
            saved=None if saved is None else saved[:, columns],
            g=self.rows.g[:, columns],
            momentum=None if momentum is None else momentum[:, columns],
            lr=self._scalar(index, "lr"),
            weight_decay=self._scalar(index, "weight_decay"),
            beta=self._scalar(index, "momentum"),
            mu=self._scalar(index, mu),
            norm=norm,
            kind=self.kind,
            nesterov=bool(group.get("nesterov", False)),
            maximize=bool(group["maximize"]),
        )

    def _exchange(self, index: int) -> Exchange:
        columns = self._columns(index)
        names = self.communicator.state_names
        return Exchange(
            layout=self._layouts[index],
            states={name: self.flat_state[name][:, columns] for name in names},
            # groups draw apart: a stride that no small seeds share
            seed=(self.seed + index * GROUP_STRIDE) % 2**63,
            number=self.rounds,
            squares=self.squares,
        )

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # type: ignore[override]
        """One local step of every agent on its gradient, then gossip. Returns the closure's loss.

        Raises:
            NonFiniteGradientError: see `nonfinite`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with use_backend(self.backend):
            self._prepare()
            self._gossip(None, self._check_gradients())
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Zero all gradients in one write. They stay views of the flat buffer, whatever `set_to_none` says."""
        self._follow()
        self.rows.zero_gradients(len(self.param_groups))

    def state_dict(self) -> dict[str, Any]:
        self.raise_if_skipped()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave; values are copied into the flat buffers.

        Raises:
            ValueError: groups or shapes differ, or public copies come without what this compressor keeps beside them;
                nothing is changed.
        """
        self._check_state(state_dict)
        super().load_state_dict(state_dict)

    def _check_state(self, state_dict: Mapping[str, Any]) -> None:
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        mine = [p for group in self.param_groups for p in group["params"]]
        together = self.communicator.state_names
        for index, p in zip(saved, mine, strict=False):
            held = state_dict["state"].get(index, {})
            missing = [name for name in together if name not in held]
            if missing and together[0] in held:
                raise ValueError(
                    f"state {together[0]} of parameter {index} must come with {', '.join(missing)}, "
                    f"got {', '.join(held)}"
                )
            for name, value in held.items():
                shape = torch.Size() if name == "step" else p.shape
                if isinstance(value, torch.Tensor) and value.shape != shape:
                    raise ValueError(
                        f"state {name} of parameter {index} must have shape {tuple(shape)}, "
                        f"got {tuple(value.shape)}"
                    )

    def __getstate__(self) -> dict[str, Any]:
        kept = ("communicator", "agents", "stacked", "seed", "nonfinite", "backend")
        counted = ("bytes_sent", "rounds")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in kept + counted}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            # a state saved by an earlier version, or by torch's SGD, lacks some
            for name in self.defaults.keys() - {"differentiable"}:
                group.setdefault(name, self.defaults[name])
        self._bind()


def as_choco(compressor: Compressor | Choco | None) -> Choco:
    """What `compressor=` means; raises ValueError where it is none of its types."""
    if isinstance(compressor, Choco):
        return compressor
    return Choco(Identity() if compressor is None else compressor)


def communicator_of(topology: Topology | None, consensus_step: float, choco: Choco) -> Communicator:
    """Models sent whole where nothing is compressed, or nobody listens; CHOCO gossip otherwise."""
    if topology is None or choco == Choco(Identity()):
        return Stacked(topology, consensus_step)
    return CompressedGossip(topology, consensus_step, choco)
