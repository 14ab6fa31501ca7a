"""The contract of a rule: what is done with a gradient, and which rows are sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastsaddle.comm.base import Communicator, Round
from fastsaddle.gradients.ascents import Ascent, MomentumSAM
from fastsaddle.graphs.needs import GraphNeeds
from fastsaddle.kernels.arguments import ALIGNMENT
from fastsaddle.optimizer.hyperparameters import Hyperparameter, check_group
from fastsaddle.optimizer.rows import Rows
from fastsaddle.optimizer.state import State

if TYPE_CHECKING:
    from fastsaddle.gradients.base import Gradient
    from fastsaddle.optimizer.shell import Optimizer

# bytes of one row buffer that a step works on at once on a CPU: its passing buffers then stay in the caches
PIECE = 2**19


class Rule:
    """What is done with a gradient, and what is sent. Your own is a subclass that writes `step`.

    It also names its hyperparameters and states. A rule keeps nothing itself: hyperparameters are entries of the
    parameter groups, states belong to the optimizer, and one rule may serve several optimizers.

    Args:
        options: values of its hyperparameters, in place of their defaults.

    Attributes:
        label: its name in tables and messages; by default that of the class.
        hyperparameters: entries of the parameter groups besides lr, weight_decay and maximize, and what values they may
            have.
        defaults: their values.
        states: what it keeps between steps.
        needs: which graphs it takes.
        sends: names of the row buffers that it sends in a step, in order; the models are "x". A compressor keeps public
            copies of each.
        ahead: names of those that it sends as they were when the last step ended, so that they may travel while the
            gradient is taken.
        takes_saved: whether `step` itself returns to `rows.saved`; otherwise x holds the models again before it.
        is_elementwise: whether columns are independent, so that on a CPU `step` may be called for one piece of a group
            after the other.
        is_atomic: whether nothing can fail once `step` has begun to write. If not, states and models are copied before
            each step, and put back if it raises an error.
        takes_push_sum: whether its one row is adapted and then combined by `fs.comm.Round.gossip_step_`, so that it may
            be a sum.
        takes_pushes: whether it uses a second matrix, by `fs.comm.Round.pushed`.
        mixes_first: whether it begins with mixed models, as cross-gradients need.
        mixes_before: whether its gradients must be taken at mixed models.
        passing: number of row buffers that lie in front of its states and are not kept between steps, see
            `fs.rules.Rows.block`.
        exchanges_first: whether nothing has changed if its one exchange raises an error.
        keeps_half: whether its buffers may be bfloat16.
        ascent_state: the momentum buffer that `fs.MomentumSAM` perturbs along; None if there is none.
        decides_on_host: what it reads or counts on the host, so that a step cannot be part of a CUDA graph; None if
            there is nothing.

    Raises:
        ValueError: an option is unknown, or a value out of range.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> class SignSGD(fs.rules.Rule):
        ...     def step(self, rows, comm):
        ...         rows.x.copy_(comm.mixed(rows.x - rows.lr * rows.g.sign()))
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> communicator = fs.comm.Gossip("ring")
        >>> optimizer = fs.Optimizer(stack.parameters(), rule=SignSGD(), communicator=communicator)
    """

    label: str = ""
    hyperparameters: Mapping[str, Hyperparameter] = {}
    states: tuple[State, ...] = ()
    needs: GraphNeeds = GraphNeeds()
    sends: tuple[str, ...] = ("x",)
    ahead: tuple[str, ...] = ()
    takes_saved: bool = False
    is_elementwise: bool = False
    is_atomic: bool = False
    takes_push_sum: bool = False
    takes_pushes: bool = False
    mixes_first: bool = False
    mixes_before: bool = False
    passing: int = 0
    exchanges_first: bool = False
    keeps_half: bool = False
    ascent_state: str | None = None
    decides_on_host: str | None = None

    def __init__(self, **options: Any) -> None:
        unknown = options.keys() - self.hyperparameters.keys()
        if unknown:
            raise ValueError(
                f"{type(self).__name__} takes {', '.join(self.hyperparameters) or 'no options'}, "
                f"got {', '.join(sorted(unknown))}"
            )
        own = {name: rule.default for name, rule in self.hyperparameters.items()}
        self.defaults: dict[str, Any] = {**own, **options}
        check_group(self.defaults, self.hyperparameters)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.defaults.items())
        return f"{type(self).__name__}({given})"

    @property
    def name(self) -> str:
        """The label, or the name of the class."""
        return self.label or type(self).__name__

    @property
    def described(self) -> str:
        """The name, with what tells this rule from others of its class."""
        return self.name

    def states_with(self, communicator: Communicator) -> tuple[State, ...]:
        """What it keeps between steps beside a given communicator.

        Args:
            communicator: how rows travel.

        Returns:
            Its states.
        """
        return self.states

    def refuses(self, communicator: Communicator) -> str | None:
        """Why it cannot work with a communicator; None if it can.

        Args:
            communicator: how rows travel.
        """
        return None

    def refuses_gradient(self, gradient: Gradient) -> str | None:
        """Why it cannot step by a gradient; None if it can.

        Args:
            gradient: where the gradient is taken.
        """
        if self.mixes_before and not gradient.at_mixed:
            kind = type(gradient).__name__
            return f"{self.name} needs gradients at the mixed models, fs.gradients.Mixed(...), got {kind}"
        return None

    def refuses_ascent(self, sam: Ascent) -> str | None:
        """Why gradients cannot be perturbed in some way; None if they can.

        Args:
            sam: the way, such as `fs.LookSAM()`.
        """
        if isinstance(sam, MomentumSAM) and self.ascent_state is None:
            return f"MomentumSAM needs a momentum buffer, {self.described} has none: QSADDLe does"
        return None

    def check_groups(self, groups: list[dict[str, Any]]) -> None:
        """Raise an error, before anything moves, for parameter groups that it cannot work with.

        Args:
            groups: the parameter groups.

        Raises:
            ValueError: it cannot work with them.
        """

    def bind(self, optimizer: Optimizer) -> None:
        """Called when the buffers have been laid out, or laid out anew.

        Args:
            optimizer: whose buffers they are.
        """

    def step(self, rows: Rows, comm: Round) -> None:
        """One step of one parameter group: overwrite `rows.x` and `rows.states`.

        Args:
            rows: the models, gradients, states and hyperparameters of the group.
            comm: its exchanges in this step; `comm.mixed(rows)` is W rows.
        """
        # every rule has its own
        raise NotImplementedError

    def begin(self, rows: Rows) -> None:
        """Called once for each group before `step`, which may be called for pieces of it.

        Args:
            rows: the group.
        """

    def end(self, rows: Rows) -> None:
        """Called once for each group after `step`.

        Args:
            rows: the group.
        """

    def advance(self, groups: list[tuple[Rows, Round]], optimizer: Optimizer) -> None:
        """One step of all groups that have columns; a rule that works on whole models overrides it.

        Args:
            groups: each group with its exchanges.
            optimizer: whose groups they are.
        """
        for rows, comm in groups:
            self.begin(rows)
            parts = self._pieces(rows, comm)
            if len(parts) == 1:
                self.step(rows, comm)
            else:
                for part in parts:
                    self.step(rows.piece(part), comm.piece(part))
            self.end(rows)

    def _pieces(self, rows: Rows, comm: Round) -> list[slice]:
        """Columns of a group that are stepped together, one part after the other."""
        agents, columns = rows.x.shape
        size = columns
        if self.is_elementwise and comm.communicator.is_elementwise and not rows.x.is_cuda:
            size = max(ALIGNMENT, PIECE // (4 * agents) // ALIGNMENT * ALIGNMENT)
        return [slice(first, min(first + size, columns)) for first in range(0, columns, size)]
