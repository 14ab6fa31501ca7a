"""What all optimizers over many agents share: flat buffers, hyperparameters as tensors, state, checks."""

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.compressors._wire import NonFiniteError
from fastsaddle.kernels.agent_norm import agent_norm
from fastsaddle.kernels.op import ops, use_backend
from fastsaddle.optimizer.flat_parameters import FlatParameters
from fastsaddle.optimizer.hyperparameters import Scalars, check_group

Closure = Callable[[], Any]


class NonFiniteGradientError(NonFiniteError):
    """A gradient holds NaN or infinity; parameters and state are as they were before the step."""


class StackedOptimizer(torch.optim.Optimizer):
    """Base of all methods: every agent's parameters, gradients and state are one row of a flat buffer.

    Subclasses say how agents are connected (`_connect`), name the buffers that they keep (`state_names`) and the
    numbers that parameter groups remember from step to step (`remembered`), and write `_advance`.

    Attributes:
        agents: how many; 1 for ordinary parameters.
        rows: the flat buffers that the parameters and gradients are views of.
        flat_state: state buffers by name, each `[agents, stride]`, float32 unless the method says otherwise;
            `state[p][name]` are views of them.
        bytes_sent: bytes that all agents together sent, scales and indices included; settable, for resuming.
        rounds: int64, 0-d: steps done; where a method draws or counts by it, it is in `state` as `step`.
        squares: `[agents, 2]` float64: of the last step, the squared norms of what was to be sent (with a compressor:
            the difference to the public copy) and of what compression lost; zeros without a compressor.
        skipped: `[agents]` int32, gradient evaluations that were not finite.
    """

    # whether `rounds` is part of the state
    counts_rounds: bool = False
    # entries of parameter groups that are state, not hyperparameters; `defaults` holds their first values
    remembered: ClassVar[tuple[str, ...]] = ()
    # what __getstate__ keeps besides torch's own
    kept: ClassVar[tuple[str, ...]] = (
        *("agents", "stacked", "seed", "nonfinite", "backend"),
        *("bytes_sent", "rounds", "counts_rounds"),
    )

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        nonfinite: str,
        backend: str | None,
        seed: int = 0,
        **connection: Any,
    ) -> None:
        if nonfinite not in ("raise", "skip"):
            raise ValueError(f'nonfinite must be "raise" or "skip", got {nonfinite!r}')
        if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
            raise ValueError(f"seed must be a whole number in [0, 2^63), got {seed}")
        check_group(defaults)
        self._bound = False
        super().__init__(params, defaults)
        # numpy's integers would overflow in the groups' seeds
        self.seed, self.nonfinite, self.backend = int(seed), nonfinite, backend
        self.agents, self.stacked = self._connect(**connection)
        self.bytes_sent = 0
        for group in self.param_groups:
            check_group(group, self.agents)
        self._check_backend()
        self._bind()

    def _connect(self, **connection: Any) -> tuple[int, bool]:
        """Take the arguments that say who talks to whom. Returns the agents, and whether parameters are stacked."""
        # a graph and an average of all have nothing in common
        raise NotImplementedError

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the buffers `[agents, stride]` that are kept between steps."""
        # every family keeps others
        raise NotImplementedError

    @property
    def decides_on_host(self) -> str | None:
        """What a step reads or counts on the host, which keeps it out of a CUDA graph; None where nothing does."""
        return None

    @property
    def squares(self) -> torch.Tensor:
        return self._squares.sum(0)

    @property
    def center(self) -> torch.Tensor | None:
        """The row `[stride]` of the model to evaluate; None where that is the agents' mean."""
        return None

    def _check_backend(self) -> None:
        with use_backend(self.backend):
            for p in (p for group in self.param_groups for p in group["params"]):
                for op in ops().values():
                    op.choice(p.device)
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
        self.flat_state = self._allocate(device)
        for name, buffer in self.flat_state.items():
            self._bind_state(name, buffer, mine)
        self._bind_rounds(mine, device)
        self._layouts = [self.rows.layout.group(index) for index in range(len(groups))]
        # of each group: a step overwrites them, and only who reads `squares` adds them up
        self._squares = torch.zeros(len(groups), self.agents, 2, dtype=torch.float64, device=device)
        skipped = getattr(self, "skipped", None)
        self.skipped = torch.zeros(self.agents, dtype=torch.int32, device=device)
        if skipped is not None:
            self.skipped.copy_(skipped)
        self._tickets = torch.zeros_like(self.skipped)
        self._scalars = Scalars(self.agents, device)
        self.dim = sum(p.numel() for group in groups for p in group) // self.agents
        self._bound = True

    def _allocate(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Zeroed buffers `[agents, stride]` for every name of `state_names`."""
        return {name: self.rows.layout.allocate(self.agents, device) for name in self.state_names}

    def _bind_state(self, name: str, buffer: torch.Tensor, mine: list[torch.nn.Parameter]) -> None:
        """Fill a buffer with what parameters hold as their state `name`, which become its views."""
        for p, part in zip(mine, self.rows.parts(buffer), strict=False):
            held = self.state[p].get(name)
            if held is not None:
                part.copy_(held)
            self.state[p][name] = part

    def _bind_rounds(self, mine: list[torch.nn.Parameter], device: torch.device) -> None:
        """One counter for all parameters, kept as their state where messages are drawn by it."""
        held = getattr(self, "rounds", None)
        self.rounds = torch.zeros((), dtype=torch.int64, device=device)
        if self.counts_rounds:
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

        `scale` (rows like the gradients) and `gate` are the op's.
        """
        columns = self._first_columns(len(self.param_groups))
        norm = torch.empty(self.agents, dtype=torch.float32, device=self.skipped.device)
        scale = None if scale is None else scale[:, columns]
        agent_norm(self.rows.g[:, columns], scale, gate, norm, self.skipped, self._tickets)
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

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # type: ignore[override]
        """One step of every agent on its gradient, and what its method sends. Returns the closure's loss.

        Raises:
            NonFiniteGradientError: see `nonfinite`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with use_backend(self.backend):
            self._prepare()
            self._advance(self._check_gradients())
        return loss

    def _advance(self, norm: torch.Tensor) -> None:
        """Everything after the gradients, whose norms are `norm` `[agents]`."""
        # the families' methods begin here
        raise NotImplementedError

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
        for index, p in zip(saved, mine, strict=False):
            held = state_dict["state"].get(index, {})
            self._check_held(index, held)
            for name, value in held.items():
                shape = self.state[p][name].shape if name in self.state[p] else p.shape
                if isinstance(value, torch.Tensor) and value.shape != shape:
                    raise ValueError(
                        f"state {name} of parameter {index} must have shape {tuple(shape)}, "
                        f"got {tuple(value.shape)}"
                    )

    def _check_held(self, index: int, held: Mapping[str, Any]) -> None:
        """Raise ValueError where parameter `index` comes with a part of what belongs together."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self.kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            # a state saved by an earlier version, or by torch's SGD, lacks some
            for name in self.defaults.keys() - {"differentiable"}:
                group.setdefault(name, self.defaults[name])
        self._bind()
