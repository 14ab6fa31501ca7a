"""The optimizer: flat buffers, parameter groups, state and torch's promises, around gradient, rule and communicator."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from functools import partial, wraps
from numbers import Integral
from operator import attrgetter, is_not
from typing import Any, Literal, TypeVar, overload

import torch
import torch.optim.optimizer as hooks
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.base import Communicator, Round
from fastsaddle.comm.gossip import Gossip
from fastsaddle.comm.ranged_round import RangedRound
from fastsaddle.compressors._wire import listed
from fastsaddle.gradients.base import AtRows, Gradient, Plain
from fastsaddle.kernels._shared.bfloat16.reference import STATE_DTYPES
from fastsaddle.kernels.agent_norm import agent_norm
from fastsaddle.kernels.norm_of_squares import norm_of_squares
from fastsaddle.kernels.op import ops, use_backend
from fastsaddle.optimizer.absent import kept_of, leave_as_kept, without
from fastsaddle.optimizer.binding import bind, moving
from fastsaddle.optimizer.collective import consensus_of, gathered_rows
from fastsaddle.optimizer.combination import (
    Connects,
    apart,
    check_groups,
    check_parts,
    connected,
)
from fastsaddle.optimizer.commit import Commit, interruptible
from fastsaddle.optimizer.eager import eagerly
from fastsaddle.optimizer.errors import NonFiniteGradientError
from fastsaddle.optimizer.facts import compare, everywhere
from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.flat_parameters import FlatParameters
from fastsaddle.optimizer.group_views import GroupViews, rows_of, views_of
from fastsaddle.optimizer.hyperparameters import (
    COMMON,
    Hyperparameter,
    Range,
    check_group,
)
from fastsaddle.optimizer.live import Live
from fastsaddle.optimizer.memory import check_memory
from fastsaddle.optimizer.own_gradient import call_for_own, must_be_own, note_zeroed
from fastsaddle.optimizer.phase import Phase
from fastsaddle.optimizer.ranges import Stages, are_wanted, ranged
from fastsaddle.optimizer.saved_state import (
    check_state,
    models_ahead,
    replace_masters,
    uncast,
)
from fastsaddle.optimizer.scaling import FromScaler, overflowed, refuse_closure, unscale
from fastsaddle.optimizer.state import MODELS, ROUND, State, copy_name
from fastsaddle.optimizer.undo import cannot_fail, copies, put_back
from fastsaddle.ranks.errors import called_by_all
from fastsaddle.ranks.placement import Placement, placed
from fastsaddle.rules.base import Rule
from fastsaddle.rules.momentum import Momentum

LOG = logging.getLogger(__name__)

Closure = Callable[[], Any]
Loss = TypeVar("Loss")

# 2^64 over the golden ratio: seeds of parameter groups lie far apart
GROUP_STRIDE = 0x9E3779B97F4A7C15
REQUIRES_GRAD = attrgetter("requires_grad")


class Optimizer(torch.optim.Optimizer):
    """A step of decentralized learning, made of three parts: gradient, rule and communicator.

    The gradient says where the gradient is taken, the rule what is done with it, the communicator how rows travel.
    Every agent's parameters, gradients and state are one row of a flat buffer. The named optimizers, such as
    `fs.QSADDLe`, are this class with parts of their own.

    Args:
        params: what torch.optim takes: tensors, named parameters, or groups of them with hyperparameters of their own.
            With n agents each parameter is stacked, `[n, ...]`, as those of `fs.AgentStack` are. float32 or bfloat16.
        lr: learning rate, >= 0: a number, or a tensor, 0-d or `[agents]`. It is read at every step. A bad value set
            later, here or in another entry of the groups, is refused by the next step before anything moves, unless it
            is a tensor on a GPU, which is not read.
        gradient: where the gradient is taken, such as `fs.gradients.SAM(...)`, `fs.gradients.Cross(...)`,
            `fs.gradients.Mixed(...)` or your own `fs.gradients.Gradient`; None is `fs.gradients.Plain()`.
        rule: what is done with it, such as `fs.rules.Momentum(...)` or your own `fs.rules.Rule`; None is SGD without
            momentum.
        communicator: how rows travel, such as `fs.comm.Gossip("ring")`, `fs.comm.Average(...)` or your own
            `fs.comm.Communicator`; None is a single agent with ordinary parameters.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        nonfinite: "raise" raises an error for NaN or infinite gradients before anything changes; with "skip" such
            agents skip their local step, and their models are still mixed (rules that track sums count a zero
            gradient).
        maximize: ascend the loss instead of descending it.
        state_dtype: torch.float32, or torch.bfloat16 for momentum and public copies, which saves 2 bytes for each of
            their numbers. Steps still compute in float32 and round what they keep stochastically, so without bias (see
            kernels/_shared/bfloat16); a reconstruction. For `fs.rules.Momentum`; public copies then need an
            `fs.compressors.StochasticQuantizer` whose step is one kernel.
        backend: what computes the ops: "reference", "native" or "triton"; None chooses by device.
        seed: seed of all random numbers, in [0, 2^63).
        placement: which process holds which agents, from `fs.place`; parameters are those of the agents of this
            process. None: all agents are here.
        process_group: short for `placement=fs.place(process_group=...)`: one agent per rank.

    A parameter that requires no gradient stays as it is. One that requires a gradient and got none counts as having a
    zero gradient: it decays and is mixed. Parameters and gradients lie in flat buffers, which follow parameters that
    are moved (`.to()`, an assigned `.data`), frozen, or exchanged in `param_groups`.

    bfloat16 parameters have a float32 master copy (`master` in their state), which steps work on; after every write it
    is rounded to nearest into them.

    A step is done whole or not at all: signals wait for its end or interrupt a closure, and an error leaves parameters,
    state and counters as they were before it.

    Attributes:
        gradient: where the gradient is taken.
        rule: what is done with it.
        communicator: how rows travel; connected to these parameters.
        plan: the communicator as it was given.
        agents: number of agents in this process, the rows of the buffers; 1 for ordinary parameters.
        stacked: whether parameters are `[agents, ...]`; False for a single agent's ordinary ones.
        placement: which process holds which agents; None where all are here.
        topology: the topology or schedule that was given; None if there is none.
        rows: the flat buffers: `rows.x` are the parameters and `rows.g` the gradients, `[agents, stride]`.
        flat_state: state buffers by name, `[agents, stride]`; `state[p][name]` are views of them.
        scalar_state: state of one number for each group and agent, `[groups, agents]`, by name.
        declared: the states of all parts, as they declare them.
        bytes_sent: bytes that the agents here have sent, scales and indices included, one message for each edge. It can
            be set, to resume a run.
        bytes_on_wire: bytes that have left this process for others, headers included.
        rounds: steps done, int64, 0-d. If a part draws or counts by it, it is also in `state` as `step`.
        skipped: `[agents]` int32, number of gradient evaluations that were not finite.
        phase: how far a step in progress has come.

    Raises:
        ValueError: a hyperparameter is out of range, parts do not go together, the rule does not take the mixing
            matrix, or the parameters are not float32 or bfloat16 on one device, share memory, or are not stacked for
            the graph. Over processes it is raised on every rank and says what differs between ranks.
        TransportError: over processes, a rank made no optimizer.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(),
        ...     lr=0.1,
        ...     gradient=fs.gradients.SAM(rho=0.05),
        ...     rule=fs.rules.Momentum("quasi-global", 0.9),
        ...     communicator=fs.comm.Gossip("ring"),
        ... )
        >>> inputs, targets = torch.randn(4, 8, 3), torch.randn(4, 8, 1)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets)
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)
        >>> optimizer.bytes_sent
        128
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        gradient: Gradient | None = None,
        rule: Rule | None = None,
        communicator: Connects | None = None,
        weight_decay: float | torch.Tensor = 0.0,
        nonfinite: Literal["raise", "skip"] = "raise",
        maximize: bool = False,
        state_dtype: torch.dtype = torch.float32,
        backend: str | None = None,
        seed: int = 0,
        placement: Placement | None = None,
        process_group: Any = None,
    ) -> None:
        gradient = Plain() if gradient is None else gradient
        rule = Momentum() if rule is None else rule
        plan: Any = Gossip(None) if communicator is None else communicator
        for name, part, kind in (("gradient", gradient, Gradient), ("rule", rule, Rule)):
            if not isinstance(part, kind):
                raise ValueError(f"{name} must be an fs.{name}s.{kind.__name__}, got {part!r}")
        if not hasattr(plan, "connect") or isinstance(plan, type):
            raise ValueError(
                f'communicator must be one such as fs.comm.Gossip("ring"), or None, got {plan!r}'
            )
        if nonfinite not in ("raise", "skip"):
            raise ValueError(f'nonfinite must be "raise" or "skip", got {nonfinite!r}')
        if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
            raise ValueError(f"seed must be a whole number in [0, 2^63), got {seed}")
        if state_dtype not in STATE_DTYPES:
            raise ValueError(
                f"state_dtype must be torch.float32 or torch.bfloat16, got {state_dtype}"
            )
        self.hyperparameters: dict[str, Hyperparameter] = apart(
            COMMON, gradient.hyperparameters, rule.hyperparameters, plan.hyperparameters
        )
        defaults = {
            "lr": lr,
            **gradient.defaults,
            **rule.defaults,
            "weight_decay": weight_decay,
            "maximize": maximize,
            **plan.defaults,
        }
        # entries that steps read as tensors, "" being zero, and those that they only look at
        is_range = {n: isinstance(a, Range) for n, a in self.hyperparameters.items()}
        self._numbers: tuple[str, ...] = ("", *(n for n, is_one in is_range.items() if is_one))
        self._others: dict[str, Hyperparameter] = {
            n: a for n, a in self.hyperparameters.items() if not is_range[n]
        }
        check_group(defaults, self.hyperparameters)
        self.gradient: Gradient = gradient
        self.rule: Rule = rule
        self.plan: Connects = plan
        self.live: Live = Live()
        super().__init__(params, defaults)
        # numpy's integers would overflow in the groups' seeds
        self.seed: int = int(seed)
        self.nonfinite: Literal["raise", "skip"] = nonfinite
        self.backend: str | None = backend
        self.state_dtype: torch.dtype = state_dtype
        here = placed(placement, process_group)
        self.communicator: Communicator
        with everywhere(self, here):
            self.communicator = connected(plan, self._leading(), here)
            for group in self.param_groups:
                check_group(group, self.hyperparameters, self.agents)
            check_parts(self)
            self._check_backend()
        is_new = all(p.grad is None for p in self.parameters)
        self._bind()
        if is_new:
            note_zeroed(self)
        LOG.debug(
            "%s: gradient %s, rule %s, communicator %s, graph %s; %d agents here, %d numbers each, on %s",
            self.who,
            type(gradient).__name__,
            rule.described,
            type(self.communicator).__name__,
            getattr(self.topology, "name", None),
            self.agents,
            self.dim,
            self.rows.x.device,
        )

    # -- what it is made of

    @property
    def who(self) -> str:
        """Its name in messages, which is that of its class or of its rule."""
        return type(self).__name__ if self.is_named else self.rule.name

    @property
    def agents(self) -> int:
        return self.communicator.agents or 1

    @property
    def stacked(self) -> bool:
        return self.communicator.stacked

    @property
    def placement(self) -> Placement | None:
        return self.communicator.placement

    @property
    def topology(self) -> Any:
        return self.communicator.schedule

    @property
    def states(self) -> tuple[State, ...]:
        """What all parts keep between steps, each state once."""
        return tuple({state.name: state for state in self.declared}.values())

    @property
    def is_named(self) -> bool:
        """Whether it is a subclass, such as one of the named optimizers, and not `fs.Optimizer` itself."""
        return type(self) is not Optimizer

    @property
    def declared(self) -> tuple[State, ...]:
        copies = [
            State(copy_name(row, state.name), state.rows, state.width, state.dtype)
            for row in self.rule.sends
            for state in self.communicator.states
        ]
        drawn = (ROUND,) if self._draws_state else ()
        return (
            *self.rule.states_with(self.communicator),
            *copies,
            *self.communicator.shared_states,
            *self.gradient.states_with(self.communicator),
            *drawn,
        )

    @property
    def _draws_state(self) -> bool:
        """Whether the rule's own buffers are rounded by draws."""
        own = self.rule.states_with(self.communicator)
        return self.state_dtype != torch.float32 and any(s.dtype == "state" for s in own)

    @property
    def decides_on_host(self) -> str | None:
        """What a step reads or counts on the host, which keeps it out of a CUDA graph; None if there is nothing."""
        parts = (self.gradient, self.rule, self.communicator)
        return next((p.decides_on_host for p in parts if p.decides_on_host is not None), None)

    @property
    def evaluations(self) -> float:
        """Mean number of gradients that a step takes for each agent."""
        return self.gradient.evaluations(self.communicator)

    @property
    def passes(self) -> int:
        """Number of gradients that the next step takes at each model, 1, or 2 for SAM if it needs both passes."""
        return self.gradient.passes(self)

    def _leading(self) -> int | None:
        """The parameters' first dimension; None where they have none in common."""
        given = self.parameters
        if not given:
            raise ValueError("at least one parameter is needed, got none")
        check_memory([p for p in given if p.requires_grad])
        shapes = {p.shape[:1] for p in given}
        first = shapes.pop()
        return first[0] if first and not shapes else None

    def _check_backend(self) -> None:
        device = self.parameters[0].device
        with use_backend(self.backend):
            for op in ops().values():
                if not op.is_layer:
                    op.choice(device)

    # -- what steps change, in an object that copies of __dict__ share

    @property
    def phase(self) -> Phase:
        return self.live.phase

    @property
    def rows(self) -> FlatParameters:
        assert self.live.rows is not None
        return self.live.rows

    @property
    def flat_state(self) -> dict[str, torch.Tensor]:
        return self.live.flat_state

    @property
    def scalar_state(self) -> dict[str, torch.Tensor]:
        return self.live.scalar_state

    @property
    def layouts(self) -> list[FlatLayout]:
        """Where each group's tensors lie in its columns, one layout for each group."""
        return self.live.layouts

    @property
    def made(self) -> dict[str, Any]:
        """Buffers that are not kept between steps, and other things made once for the present buffers."""
        return self.live.made

    @property
    def rounds(self) -> torch.Tensor:
        return self.live.rounds

    @property
    def bytes_sent(self) -> int:
        unlike = self.live.bytes_unlike
        return self.live.bytes_sent + (0 if unlike is None else int(unlike))

    @bytes_sent.setter
    def bytes_sent(self, count: int) -> None:
        self.live.bytes_sent = count
        if self.live.bytes_unlike is not None:
            self.live.bytes_unlike.zero_()

    def _count(self, nbytes: int | torch.Tensor) -> None:
        """Count what a step sent; where rounds of a period send unlike it is known on the device alone."""
        live = self.live
        if not isinstance(nbytes, torch.Tensor):
            live.bytes_sent += nbytes
        elif live.bytes_unlike is None:
            live.bytes_unlike = nbytes.clone()
        else:
            live.bytes_unlike.add_(nbytes)

    @property
    def bytes_on_wire(self) -> int:
        return self.communicator.bytes_on_wire

    @property
    def skipped(self) -> torch.Tensor:
        return self.live.skipped

    @property
    def dim(self) -> int:
        """Number of elements of one agent's model that steps move."""
        return self.live.dim

    @property
    def locals(self) -> Any:
        """The agents' own optimizers, with `fs.rules.Torch`; None otherwise."""
        return self.live.locals

    @locals.setter
    def locals(self, optimizers: Any) -> None:
        self.live.locals = optimizers
        if self.live.held_locals is not None:
            optimizers.load_state_dicts(self.live.held_locals)
            self.live.held_locals = None

    @property
    def squares(self) -> torch.Tensor:
        """Squared norms of the last step's messages, `[agents, 2]` float64.

        The first is that of what was to be sent (with a compressor, the difference to the public copy), the second that
        of what compression lost. They are zero without a compressor.
        """
        return self.live.squares.sum((0, 1))

    @property
    def center(self) -> torch.Tensor | None:
        """The row `[stride]` of the model to evaluate; None if that is the agents' mean."""
        return self.communicator.center(self)

    @property
    def perturbed(self) -> bool:
        """Whether the parameters hold a perturbed model now."""
        return self.phase.norm is not None

    # of torch's GradScaler, which sets them before a step that the optimizer may skip by itself
    grad_scale = FromScaler()
    found_inf = FromScaler()

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a GradScaler is to call `step` where gradients overflowed, too.

        There is something to be undone then, or other processes, which skip the step as well, are to be told.
        """
        is_shared = self.placement is not None
        return not self.phase.steps and (is_shared or self.gradient.skips_by_itself(self))

    @property
    def counts_rounds(self) -> bool:
        """Whether `rounds` is part of the state."""
        return ROUND in self.states

    @property
    def remembered(self) -> tuple[str, ...]:
        """Entries of the parameter groups that are state, not hyperparameters."""
        return tuple(state.name for state in self.states if state.width == "group")

    # -- where things lie

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters of all groups in order, including those that require no gradient."""
        return [p for group in self.param_groups for p in group["params"]]

    @property
    def count(self) -> int:
        """Number of parameters, in all groups, that steps move."""
        return self.live.count

    def columns(self, index: int) -> slice:
        """The columns of a group in every row.

        Args:
            index: number of the group.
        """
        return slice(*self.rows.layout.ranges[index])

    @property
    def model_columns(self) -> slice:
        """The columns of all groups together."""
        return slice(0, self.rows.layout.ranges[len(self.param_groups) - 1][1])

    @property
    def moves_all(self) -> bool:
        """Whether the rows hold only parameters that steps move."""
        return self.count == len(self.rows.parameters)

    @property
    def model_rows(self) -> torch.Tensor:
        """The models of all groups, `[agents, columns]`, as far as the parameters hold them."""
        return self.rows.x[:, self.model_columns]

    def scalar(self, index: int, name: str) -> torch.Tensor:
        """A group's hyperparameter as a float32 tensor on the device, 0-d or `[agents]`.

        Args:
            index: number of the group.
            name: name of its entry.
        """
        assert self.live.scalars is not None
        return self.live.scalars.read(self.param_groups[index], index, name)

    def seed_of(self, index: int) -> int:
        """The seed of a group's random numbers; groups draw independently.

        Args:
            index: number of the group.
        """
        return (self.seed + index * GROUP_STRIDE) % 2**63

    # -- buffers

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, at any time; the flat buffers are laid out anew and state is carried over.

        Args:
            param_group: `params` and hyperparameters of its own, as for torch.optim.

        Raises:
            RuntimeError: parameters are perturbed.
            ValueError: a hyperparameter is out of range, or parameters do not fit; nothing has changed.
        """
        is_bound = self.live.rows is not None
        if is_bound:
            self.refuse_perturbed("given another group")
        with Commit(), self._at_models():
            eagerly(super().add_param_group)(param_group)
            if is_bound:
                try:
                    check_group(self.param_groups[-1], self.hyperparameters, self.agents)
                    check_groups(self)
                    self._bind()
                except BaseException:
                    for p in self.param_groups.pop()["params"]:
                        self.state.pop(p, None)
                    self._bind()
                    raise

    def _bind(self) -> None:
        """Lay parameters, gradients and state out flat; what `state` holds is copied, the rest starts anew.

        Buffers that fit stay where they are: a captured graph knows nothing but their addresses.
        """
        with Commit():
            bind(self)
            self.rows.phase = self.phase

    def follow(self) -> None:
        """Find parameters that were moved, by hand or into other buffers, and lay out the state like them.

        It also takes over states that were exchanged by hand, and what was written into bfloat16 parameters.
        """
        self._find()
        if any(self.state[p].get(name) is not part for p, name, part in self.live.held):
            # reset or exchanged by hand
            self._bind()
        if self.rows.rounded is not None:
            self.rows.rounded.absorb()

    def _find(self) -> None:
        """Lay everything out anew where parameters are not where they were."""
        if torch.is_inference_mode_enabled():
            # what is made here is used outside of it
            with torch.inference_mode(False), torch.no_grad():
                self._find()
            return
        if self.rows.deserted:
            self._bind()
        self.rows.verify()
        # while models are elsewhere it must wait
        is_home = self.phase.home is None
        if self.live.version != self.rows.version or (is_home and self._has_others):
            self._bind()

    @property
    def _has_others(self) -> bool:
        """Whether other parameters are to move than lie in the buffers."""
        if len(self.param_groups) != len(self.live.layouts):
            return True
        for group, held in zip(self.param_groups, self.rows.groups, strict=False):
            named = group["params"]
            # the usual case without a list of its own
            if len(named) != len(held) or not all(map(REQUIRES_GRAD, named)):
                named = moving(group)
            if len(named) != len(held) or any(map(is_not, named, held)):
                return True
        return False

    def collect(self) -> None:
        """Bring every gradient into the flat buffer, and the state to where the parameters are."""
        self.follow()
        self.rows.collect_gradients()

    def mark_written(self) -> None:
        """Tell parameters and autograd that the flat buffer was written."""
        self.rows.published()

    # -- a step

    def evaluate(self, closure: Closure, adds: bool = False) -> Any:
        """Call a closure at the models where gradients are wanted; signals may interrupt it.

        Args:
            closure: evaluates the loss and its gradient.
            adds: whether it may add to gradients that are there already. It always may if it is the step's only closure
                call and takes its gradient at the models, so that gradients accumulate over batches.

        Returns:
            What the closure returns.

        Raises:
            RuntimeError: the closure added its gradient to others where it must not.
        """
        call: Closure = partial(interruptible, closure)
        rows = self.rows
        if self.live.stages is not None:
            call = in_range("evaluate", call)
        writes_all = isinstance(closure, AtRows)
        # of a part of the parameters they would not be the norm's
        rows.squares, rows.wants_squares = None, writes_all and self.moves_all
        try:
            with torch.enable_grad(), self.communicator.point(rows.at):
                is_own = adds or writes_all or not must_be_own(self)
                loss = call() if is_own else call_for_own(self, call)
        finally:
            rows.wants_squares = False
        self.phase.evaluations += 1
        return loss

    def check_gradients(
        self,
        scale: torch.Tensor | None = None,
        gate: torch.Tensor | None = None,
        refuses: bool = True,
    ) -> torch.Tensor:
        """Norms of all gradients, `[agents]` float32.

        On a CPU, and with `nonfinite="raise"`, a norm that is not finite raises an error.

        Args:
            scale: rows shaped like the gradients; the norms are then those of |scale| g.
            gate: `[agents]`: where it is not finite, so is the norm.
            refuses: whether anything is raised. If not, later norms must be gated by these.

        Raises:
            NonFiniteGradientError: a gradient is not finite, see `nonfinite`.
        """
        live, rows, columns = self.live, self.rows, self.model_columns
        norm = torch.empty(self.agents, dtype=torch.float32, device=live.skipped.device)
        if not columns.stop:
            return norm.zero_()
        scale = None if scale is None else scale[:, columns]
        if "model gradients" not in live.made:
            live.made["model gradients"] = rows.g[:, columns]
        squares = None if rows.squares is None or scale is not None else rows.squares.of(rows.g)
        if squares is not None:
            norm_of_squares(squares, gate, norm, live.skipped)
        else:
            agent_norm(live.made["model gradients"], scale, gate, norm, live.skipped)
        is_told = refuses and self.nonfinite == "raise" and norm.device.type == "cpu"
        # the largest is NaN where one is, and takes one pass
        if is_told and not math.isfinite(norm.max()):
            try:
                # other processes wait for this one's word before they go on
                self.communicator.agree(norm)
            finally:
                self.raise_if_skipped()
        return norm

    def raise_if_skipped(self) -> None:
        """Raise an error if a gradient was not finite since the last call, with `nonfinite="raise"`.

        On a CPU `step()` does so by itself, before anything changes. On a GPU the agent's update is skipped without a
        host synchronization: call this whenever you read results. Saving the state calls it too.

        Raises:
            NonFiniteGradientError: a gradient was not finite; the message names the agents.
            PeerError: over processes, one of them sent something else than was due. Messages on a GPU are not looked at
                when they come, but here, in `gathered` and `consensus`, and every so many exchanges.
        """
        self.communicator.look()
        if self.nonfinite == "raise" and bool(self.skipped.any()):
            agents = listed(self.skipped != 0, self.communicator.first_agent)
            self.skipped.zero_()
            raise NonFiniteGradientError(
                f"gradients must be finite, got NaN or infinity for agents {agents}; "
                'their updates were not made (nonfinite="skip" leaves such agents out instead)'
            )

    def _step(
        self, closure: Closure | None = None, *, closure_passes: Literal[1, 2] | None = None
    ) -> Any:
        """One step of every agent, and what its method sends.

        Args:
            closure: evaluates the loss and its gradient; `fs.gradients.SAM` says how often it is called. If parameters
                are perturbed already it is called once, or has nothing left to do (Lightning passes such closures).
            closure_passes: for SAM gradients, overrides what the gradient was made with, for this step.

        Returns:
            The loss of the closure's first call; None if there was none.

        Raises:
            RuntimeError: this step needs a closure or a `perturb()` before it; the closure adds to gradients that were
                there before, see `evaluate`; a closure was passed in `GradScaler.step`; or a step is called within a
                step.
            ValueError: a hyperparameter in a parameter group is out of range; nothing has moved.
            NonFiniteGradientError: see `nonfinite`; parameters are as they were. If a GradScaler drives the step, it is
                skipped instead.
            PeerError: a process that holds other agents has failed, now or in an earlier step; parameters are as they
                were.
        """
        phase, live = self.phase, self.live
        if phase.steps:
            raise RuntimeError("a step is in progress: a closure must not step its own optimizer")
        told, live.scaler = live.scaler, {}
        stages = live.stages
        with Commit(), torch.no_grad():
            try:
                if stages is not None:
                    stages.to("begin")
                self.communicator.begin(self)
                compare(self)
                if told and closure is not None:
                    refuse_closure(self)
                self.gradient.check_call(self, closure, closure_passes)
            except BaseException as error:
                self._withdraw(error)
                raise
            phase.steps = True
            try:
                # of rows that another optimizer has laid out the groups are not these
                is_mine = live.version == self.rows.version
                if phase.home is not None and is_mine and self._has_others:
                    self._follow_perturbed()
                if told and overflowed(self, told):
                    self._undo()
                    return None
                if stages is not None:
                    stages.to("take")
                loss = self.gradient.take(self, closure, closure_passes)
                unscale(self, told)
                self._commit()
                if live.trains:
                    if stages is not None:
                        stages.to("ahead")
                    self.gradient.go_ahead(self)
            except BaseException as error:
                self._undo()
                self._withdraw(error)
                raise
            finally:
                phase.steps = False
        return loss

    # what messages call it
    _step.__name__, _step.__qualname__ = "step", "Optimizer.step"

    def _staged_step(self, *args: Any, **kwargs: Any) -> Any:
        """A step whose phases are ranges, where anybody profiles."""
        if not are_wanted():
            return self._step(*args, **kwargs)
        before, self.live.stages = self.live.stages, Stages()
        try:
            return self._step(*args, **kwargs)
        finally:
            self.live.stages.to(None)
            self.live.stages = before

    # hooks and a record for profilers around it
    _watched_step = torch.optim.Optimizer.profile_hook_step(_staged_step)

    @overload
    def step(
        self, closure: None = None, *, closure_passes: Literal[1, 2] | None = None
    ) -> None: ...

    @overload
    def step(
        self, closure: Callable[[], Loss], *, closure_passes: Literal[1, 2] | None = None
    ) -> Loss: ...

    @overload
    def step(
        self, closure: Callable[[], Loss] | None, *, closure_passes: Literal[1, 2] | None = None
    ) -> Loss | None: ...

    @wraps(_step, assigned=("__doc__", "__annotations__"))
    def step(self, *args: Any, **kwargs: Any) -> Any:
        # torch records each step, whether or not anybody looks: a twentieth of the time of a small one
        if not (self._has_hooks or are_wanted()):
            return self._step(*args, **kwargs)
        # a subclass's own step has been wrapped by torch, which calls hooks then
        is_wrapped = getattr(type(self).step, "__globals__", None) is vars(hooks)
        return (self._staged_step if is_wrapped else self._watched_step)(*args, **kwargs)

    # or torch would wrap it once more
    step.hooked = True  # type: ignore[attr-defined]

    @property
    def _has_hooks(self) -> bool:
        """Whether something is to be called before or after each step."""
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or hooks._global_optimizer_pre_hooks
            or hooks._global_optimizer_post_hooks
        )

    def _withdraw(self, error: BaseException) -> None:
        """A step has failed here; where it has everywhere it may be done again, though not from the same place on."""
        self.communicator.withdraw(error)
        self._forget_ahead()

    def _follow_perturbed(self) -> None:
        """Other parameters are to move than were perturbed."""
        if not self.live.trains:
            raise RuntimeError(
                "parameters cannot be frozen, freed or exchanged between perturb() and step(); "
                "they hold the models again"
            )
        self._restore()
        self.follow()
        self.live.trains = self.gradient.go_ahead(self)

    def _commit(self) -> None:
        """From gradients to the next models, whole or not at all."""
        live, phase, stages = self.live, self.live.phase, self.live.stages
        with use_backend(self.backend):
            if stages is not None:
                stages.to("found")
            found = self.gradient.found(self)
            self.communicator.agree(found.norm)
            down = self.communicator.down(self)
            if down is not None:
                found = without(found, down)
            # all is read before the first group moves: a bad value must leave nothing half done
            views = self._views()
            scalars = [self._scalars_of(v.index) for v in views]
            check_groups(self)
            if phase.rounds is None:
                phase.rounds = self._open_rounds()
            at_home = phase.home is None or self.rule.takes_saved
            if not at_home:
                self._go_home()
            groups = [
                (rows_of(self, v, found, numbers, comm, down is not None), comm)
                for v, numbers, comm in zip(views, scalars, phase.rounds, strict=True)
            ]
            undo = None if cannot_fail(self) else copies(self)
            kept = [] if down is None else kept_of(self, down)
            try:
                nbytes: int | torch.Tensor = 0
                if groups:
                    if stages is not None:
                        stages.to("step")
                    self.rule.advance(groups, self)
                    if stages is not None and self.communicator.meets(self):
                        stages.to("average")
                    nbytes = self.communicator.finish(self)
                if stages is not None:
                    stages.to("keep")
                self.gradient.keep(self)
                if down is not None:
                    leave_as_kept(self, down, kept)
            except BaseException:
                if undo is not None:
                    put_back(self, undo)
                raise
            for comm in phase.rounds:
                comm.settle()
                nbytes = nbytes + comm.nbytes
            self._count(nbytes + phase.nbytes)
            live.rounds.add_(1)
            self.rows.second_pass = False
            phase.clear()
            self.mark_written()
            self._send_ahead()

    def _send_ahead(self) -> None:
        """Offer what the next step sends as it is now."""
        rule = self.rule
        if rule.ahead and self.communicator.overlaps and self.communicator.gossips(self):
            self.communicator.send_ahead(
                [
                    (v.x if name == MODELS else v.states[name], exchange)
                    for v in self._views()
                    for name, exchange in zip(rule.sends, v.exchanges, strict=True)
                    if name in rule.ahead
                ]
            )

    @property
    def filled(self) -> list[int]:
        """Numbers of the groups that have columns."""
        ranges = self.rows.layout.ranges[: len(self.param_groups)]
        return [index for index, (first, end) in enumerate(ranges) if end > first]

    def _scalars_of(self, index: int) -> dict[str, torch.Tensor]:
        """Group `index`'s numbers as tensors."""
        check_group(self.param_groups[index], self._others)
        return {name: self.scalar(index, name) for name in self._numbers}

    def _views(self) -> list[GroupViews]:
        """Of each group that has columns, what its steps work on: found once for these buffers."""
        if "views" not in self.made:
            self.made["views"] = [views_of(self, index) for index in self.filled]
        found: list[GroupViews] = self.made["views"]
        return found

    def _open_rounds(self) -> list[Round]:
        """This step's exchanges of all groups that have columns."""
        gossips = self.communicator.gossips(self)
        sends, views = self.rule.sends, self._views()
        if self.live.heard.is_old and views:
            self.communicator.resume([e for v in views for e in v.exchanges])
            self.live.heard.is_old = False
        meetings = self.communicator.meetings(self) if gossips else ()
        kind = Round if self.live.stages is None else RangedRound
        return [kind(self.communicator, v.exchanges, sends, gossips, meetings) for v in views]

    def begin_rounds(self) -> Iterator[tuple[Round, slice]]:
        """Begin this step's exchanges before its gradients, for gradients that need the mixed models.

        Returns:
            Each group's `fs.comm.Round` and columns.
        """
        self.follow()
        self.phase.rounds = self._open_rounds()
        for comm, views in zip(self.phase.rounds, self._views(), strict=True):
            yield comm, views.columns

    # -- models elsewhere

    def visit(self, models: torch.Tensor | None) -> None:
        """Let the parameters hold other models until `leave`.

        Args:
            models: `[agents, stride]`; None: the mixed models of this step.
        """
        phase = self.phase
        if phase.home is None:
            phase.home, phase.end = self.rows.x.clone(), self.model_columns.stop
            phase.home_parts = self.rows.parts(phase.home)
        for k, views in enumerate(self._views()):
            if models is not None:
                views.x.copy_(models[:, views.columns])
                continue
            told = phase.rounds[k].told if phase.rounds is not None else None
            assert told is not None
            views.x.copy_(told)
        self.mark_written()

    def leave(self) -> None:
        """Let the parameters hold the models again, exactly, after `visit`."""
        self._go_home()
        self.rows.second_pass = False

    def _go_home(self) -> None:
        phase = self.phase
        if phase.home is not None:
            columns = slice(0, phase.end)
            self.rows.x[:, columns].copy_(phase.home[:, columns])
            phase.home, phase.home_parts, phase.norm = None, [], None
            self.mark_written()

    def perturb(self, zero_grad: bool = False) -> None:
        """Move every agent to where its second gradient is to be taken, x + rho g / ||g||, and remember x.

        For SAM gradients, in loops without closures; `step()` then goes on from x. Agents whose gradient is not finite
        stay where they are: `step()` then raises an error, or is skipped if a GradScaler drives it.

        Args:
            zero_grad: whether to zero the gradients afterwards.

        Raises:
            RuntimeError: the parameters are perturbed already, this gradient perturbs nothing, or a step is in
                progress.
            ValueError: rho is out of range, or a gradient is sparse; nothing has moved.

        Example:
            >>> import torch
            >>> import fastsaddle as fs
            >>> model = torch.nn.Linear(3, 1)
            >>> optimizer = fs.DSADDLe(model.parameters(), lr=0.1, rho=0.05)
            >>> inputs = torch.randn(8, 3)
            >>> model(inputs).square().mean().backward()
            >>> optimizer.perturb(zero_grad=True)
            >>> model(inputs).square().mean().backward()
            >>> optimizer.step()
        """
        self._refuse_in_step("perturbed")
        if self.perturbed:
            first = "eval()" if self.live.trains else "step() or restore()"
            raise RuntimeError(f"the parameters are perturbed already: {first} first")
        try:
            with Commit() as commit, torch.no_grad():
                try:
                    with ranged("perturb"):
                        self.gradient.perturb(self, zero_grad)
                    commit.deliver()
                except BaseException:
                    # while further signals wait
                    self._restore()
                    raise
        except BaseException:
            # what came since: a signal that is told of here must not leave a perturbed model
            self._restore()
            raise

    def first_step(self, zero_grad: bool = False) -> None:
        """The same as `perturb`, under its customary name.

        Args:
            zero_grad: whether to zero the gradients afterwards.
        """
        self.perturb(zero_grad)

    def second_step(self, zero_grad: bool = False) -> None:
        """The same as `step()` after `perturb`, under its customary name.

        Args:
            zero_grad: whether to zero the gradients afterwards.
        """
        self.step()
        if zero_grad:
            self.zero_grad()

    def _undo(self) -> None:
        """Undo a step that failed: parameters are where they were before it."""
        if self.live.trains and self.phase.home is not None:
            self.phase.forget()
        elif self.live.trains:
            self.phase.clear()
            self.gradient.go_ahead(self)
        else:
            self._restore()

    def train(self, mode: bool = True) -> None:
        """Keep the parameters where the next gradient is to be taken, from now on and after each step.

        For `fs.MomentumSAM`, whose perturbation is known before the gradient, in loops without closures: call `train()`
        before training, and `eval()` before the model is evaluated or saved. `rho` is read when the parameters move.
        `state_dict`, `AgentStack.consensus`, `synchronize` and copies still use the models, and copies start in
        `eval()`. For other optimizers the parameters always hold the models, and this does nothing.

        Args:
            mode: False is `eval()`.

        Raises:
            RuntimeError: a step is in progress, or parameters are perturbed by `perturb`.
        """
        self._refuse_in_step("put into train()")
        if not mode:
            self.eval()
            return
        self.refuse_perturbed("put into train()")
        if not self.live.trains:
            with Commit(), torch.no_grad():
                self.live.trains = self.gradient.go_ahead(self)

    def eval(self) -> None:
        """Let the parameters hold the models again after `train()`, exactly; a new optimizer is in this state.

        Raises:
            RuntimeError: a step is in progress.
        """
        self._refuse_in_step("put into eval()")
        if self.live.trains:
            self._restore()

    @contextmanager
    def _at_models(self) -> Iterator[None]:
        """Inside the block parameters hold the models; `train()` goes on behind it."""
        trains = self.live.trains
        self.eval()
        try:
            yield
        finally:
            if trains:
                self.train()

    def restore(self) -> None:
        """Undo a perturbation exactly, to evaluate or to skip a step; without one it does nothing.

        It also ends `train()`.

        Raises:
            RuntimeError: a step is in progress.
        """
        self._refuse_in_step("restored")
        self._restore()

    def _restore(self) -> None:
        live = self.live
        with Commit(), torch.no_grad():
            if live.phase.home is not None:
                self.follow()
                self._go_home()
            # also where the perturbed models were aside
            self.rows.second_pass = False
            if live.phase.skipped is not None:
                live.skipped.copy_(live.phase.skipped)
            live.phase.clear()
            live.trains = False

    def synchronize(self) -> None:
        """Bring all agents together now; at the end of a period `step` does so by itself.

        Raises:
            RuntimeError: the method works on a graph, so that agents never meet; or parameters are perturbed, or a step
                is in progress.
        """
        self._refuse_in_step("synchronized")
        self.refuse_perturbed("synchronized")
        with (
            called_by_all("synchronize()"),
            Commit(),
            torch.no_grad(),
            use_backend(self.backend),
            self._at_models(),
        ):
            compare(self, together=True)
            self.follow()
            self.bytes_sent += self.communicator.synchronize(self)
            self.mark_written()

    def gathered(self, name: str = "x") -> torch.Tensor:
        """All agents' rows of a buffer, in the order of agents, as a new tensor.

        Over processes every rank must call it, and then holds the rows of all agents; `consensus` needs less memory.

        Args:
            name: "x" for the models, also while parameters are perturbed; otherwise the name of a state in `flat_state`
                or `scalar_state`, one that each agent has.

        Returns:
            `[all agents, stride]`: `rows.layout.views(...)` cuts it into parameters, `[all agents, *shape]` each. The
            models are float32, states are as they are kept. For a state of one number, `[all agents, groups]`.

        Raises:
            RuntimeError: a step is in progress.
            ValueError: there is no such state, or all agents share it.
            PeerError: a rank did not call it.
        """
        self._refuse_in_step("gathered")
        with called_by_all("gathered()"):
            self.communicator.look()
            compare(self, together=True)
            return gathered_rows(self, name)

    def consensus(self, module: torch.nn.Module) -> torch.nn.Module:
        """The averaged model as a plain module, for a module whose one agent is trained in this process.

        Parameters are the mean of all agents' models, with the same bits as `AgentStack.consensus` in one process, or
        the center of EASGD. Frozen parameters and floating-point buffers are averaged too; counters are agent 0's. Over
        processes every rank must call it, and gets the model; without processes it is a copy.

        Args:
            module: the module whose parameters this optimizer has; it stays as it is. The wrapper of DDP is taken off.

        Raises:
            RuntimeError: a step is in progress.
            ValueError: several agents are here (use `AgentStack.consensus`), or the optimizer moves no parameter of the
                module.
            PeerError: a rank did not call it.
        """
        self._refuse_in_step("averaged")
        with called_by_all("consensus()"):
            self.communicator.look()
            compare(self, together=True)
            return consensus_of(self, module)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to zero in one write.

        Args:
            set_to_none: has no effect: gradients stay views of the flat buffer.
        """
        self._find()
        self.rows.zero_gradients(len(self.param_groups))
        note_zeroed(self)

    # -- saving and loading

    def mark_loaded(self) -> None:
        """Tell the optimizer that states were written in place, as `load_state_dict` writes them.

        Every rank must call it, or none. The next step then first takes what is kept here of agents elsewhere from
        their owners. Where all agents are here it changes nothing.
        """
        heard = self.live.heard
        heard.is_old, self.live.is_loaded = bool(heard.buffers), True
        self._forget_ahead()

    def _forget_ahead(self) -> None:
        """States were loaded: what was sent for the next step, or made of them, is old."""
        self.communicator.loaded()
        for views in self.made.get("views", ()):
            for exchange in views.exchanges:
                exchange.forget_ahead()

    def _refuse_in_step(self, what: str) -> None:
        """Raise RuntimeError while a step is in progress: a closure would pull its models away."""
        if self.phase.steps:
            raise RuntimeError(f"the optimizer cannot be {what} while a step is in progress")

    def refuse_perturbed(self, what: str) -> None:
        """Raise an error if parameters are perturbed by `perturb`.

        Args:
            what: what the optimizer cannot be then, for the message, such as "saved".

        Raises:
            RuntimeError: they are.
        """
        if self.perturbed and not self.live.trains:
            raise RuntimeError(
                f"the optimizer cannot be {what} while parameters are perturbed: step() or restore() first"
            )

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizer, as torch's.

        With `fs.rules.Torch` it also has `local`, the states of the agents' own optimizers.

        Raises:
            RuntimeError: parameters are perturbed.
            NonFiniteGradientError: see `raise_if_skipped`.
        """
        self.refuse_perturbed("saved")
        self.raise_if_skipped()
        with torch.no_grad():
            self.follow()
        own = {} if self.locals is None else {"local": self.locals.state_dicts()}
        saved = eagerly(super().state_dict)()
        keys = {p: index for index, p in enumerate(self.parameters)}
        replace_masters(self, saved["state"], keys)
        return {**saved, **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; values are copied into the flat buffers, which stay where they are.

        Over processes every rank loads the part of its agents, or none does.

        Args:
            state_dict: from an optimizer of the same kind with the same parameter groups.

        Raises:
            RuntimeError: parameters are perturbed.
            ValueError: groups or shapes differ, or public copies come without what this compressor keeps beside them;
                nothing has changed.
        """
        self.refuse_perturbed("loaded")
        own = state_dict.get("local")
        if (own is None) != (self.locals is None):
            raise ValueError(
                f"state must {'not ' if self.locals is None else ''}come with local optimizers' states, "
                f"got {', '.join(state_dict)}"
            )
        check_state(self, state_dict)
        with Commit(), self._at_models():
            before = None if self.locals is None else deepcopy(self.locals.state_dicts())
            try:
                if self.locals is not None and own is not None:
                    self.locals.load_state_dicts(own)
                self.live.loading = uncast(self, state_dict)
                kept = {n: v for n, v in state_dict.items() if n != "local"}
                eagerly(super().load_state_dict)(kept)
                self._forget_ahead()
            except BaseException:
                if self.locals is not None and before is not None:
                    self.locals.load_state_dicts(before)
                raise
            finally:
                self.live.loading = {}
        self.live.is_loaded = True

    def __copy__(self) -> Optimizer:
        # shares everything, as wrappers' copies of __dict__ do
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        self.refuse_perturbed("copied")
        self.communicator.catch_up()
        own = None if self.locals is None else self.locals.state_dicts()
        counted = {
            "bytes_sent": self.bytes_sent,
            "rounds": self.rounds,
            "skipped": self.skipped,
            "locals": own,
            "compared": self.live.compared,
            "is_loaded": self.live.is_loaded,
            "models": {p: model.clone() for p, model in models_ahead(self).items()},
        }
        kept = super().__getstate__()
        if self.live.trains:
            kept["state"] = copy(kept["state"])
            replace_masters(self, kept["state"], {p: p for p in self.state})
        return {
            **kept,
            **{n: getattr(self, n) for n in KEPT},
            "_counted": counted,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        counted = state.pop("_counted", None)
        if "live" in self.__dict__:
            # loaded: wrappers share what holds groups and state
            self.param_groups[:] = state.pop("param_groups")
            held = state.pop("state")
            for p, values in self.live.loading.items():
                held[p].update(values)
            self.state.clear()
            self.state.update(held)
        super().__setstate__(state)
        if counted is not None:
            self.live = live = Live()
            live.bytes_sent, live.held_locals = counted["bytes_sent"], counted["locals"]
            live.rounds, live.skipped = counted["rounds"], counted["skipped"]
            live.compared, live.is_loaded = counted["compared"], counted["is_loaded"]
            for p, model in counted["models"].items():
                p.data.copy_(model)
        for group in self.param_groups:
            # a state saved by an earlier version, or by torch's SGD, lacks some
            for name in self.defaults.keys() - {"differentiable"}:
                group.setdefault(name, self.defaults[name])
        self._bind()


def in_range(name: str, call: Closure) -> Closure:
    """The same as a range, for whoever profiles."""

    def inside() -> Any:
        with ranged(name):
            return call()

    return inside


# what __getstate__ keeps besides torch's own and what is counted
KEPT = (
    *("gradient", "rule", "communicator", "plan", "hyperparameters", "_numbers", "_others"),
    *("seed", "nonfinite", "backend", "state_dtype"),
)
