"""The contract of a gradient: where it is taken, and what a step then starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fastsaddle.comm.base import Communicator
from fastsaddle.gradients.ascents import Ascent
from fastsaddle.kernels.op import use_backend
from fastsaddle.optimizer.hyperparameters import Hyperparameter
from fastsaddle.optimizer.state import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastsaddle.optimizer.shell import Optimizer
    from fastsaddle.rules.base import Rule

    Closure = Callable[[], Any]


@dataclass(frozen=True)
class Found:
    """What a gradient hands to the rest of the step; the gradients themselves are in `optimizer.rows.g`.

    Args:
        norm: `[agents]` float32: agents for which it is not finite have no gradient in this step.
        at_mixed: whether gradients were taken, and weight decay is to be taken, at the mixed models.
    """

    norm: torch.Tensor
    at_mixed: bool = False


class AtRows:
    """A closure that writes all gradients anew, those at `optimizer.rows.at`, whatever parameters hold.

    SAM then writes the perturbed models aside and leaves parameters as they are: one pass less over all models. The
    simulator's engines are such closures.

    Args:
        closure: evaluates the loss and its gradient.
    """

    def __init__(self, closure: Closure) -> None:
        self._closure = closure

    def __call__(self) -> Any:
        return self._closure()


class Gradient:
    """Where the gradient is taken; base of the other ways. Your own is a subclass that writes `take`.

    A gradient keeps nothing itself, so one may serve several optimizers: states, and what a step passes on, belong to
    the optimizer.

    Attributes:
        hyperparameters: entries of the parameter groups that it reads, and what values they may have.
        defaults: their values.
        states: what it keeps between steps.
        decides_on_host: what it reads or counts on the host, so that a step cannot be part of a CUDA graph; None if
            there is nothing.
        ascent: how it takes a SAM gradient; None if it takes none.
        needs_closure: why a step needs a closure; None if it does not.
        at_mixed: whether it is taken at the mixed models.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> class Clipped(fs.gradients.Gradient):
        ...     def take(self, optimizer, closure, passes=None):
        ...         loss = super().take(optimizer, closure, passes)
        ...         optimizer.rows.collect_gradients()
        ...         optimizer.rows.g.clamp_(-1, 1)
        ...         return loss
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fs.Optimizer(model.parameters(), lr=1.0, gradient=Clipped())
        >>> before = model.bias.item()
        >>> model(torch.full((1, 3), 100.0)).sum().mul(100).backward()
        >>> optimizer.step()
        >>> round(before - model.bias.item(), 4)
        1.0
    """

    hyperparameters: Mapping[str, Hyperparameter] = {}
    states: tuple[State, ...] = ()
    decides_on_host: str | None = None
    ascent: Ascent | None = None
    needs_closure: str | None = None
    at_mixed: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        return {name: rule.default for name, rule in self.hyperparameters.items()}

    def states_with(self, communicator: Communicator) -> tuple[State, ...]:
        """What it keeps between steps beside a given communicator.

        Args:
            communicator: how rows travel.

        Returns:
            Its states.
        """
        return self.states

    def slot_states(self, slot: int) -> tuple[State, ...]:
        """What it keeps for the gradients at each agent's neighbor in a given place.

        Args:
            slot: place of the neighbor, from 1 on.

        Returns:
            Its states.
        """
        return ()

    def evaluations(self, communicator: Communicator) -> float:
        """Mean number of gradients that a step takes for each agent.

        Args:
            communicator: how rows travel.
        """
        return 1

    def takes_several(self, optimizer: Optimizer) -> bool:
        """Whether the next step takes several gradients, none of which may then be added to an earlier one.

        Args:
            optimizer: whose step it is.
        """
        return self.evaluations(optimizer.communicator) > 1

    def refuses(self, rule: Rule, communicator: Communicator) -> str | None:
        """Why it cannot be combined with a rule and a communicator; None if it can.

        Args:
            rule: what is done with the gradient.
            communicator: how rows travel.
        """
        return None

    def passes(self, optimizer: Optimizer) -> int:
        """Number of gradients that the next step takes at each model.

        Args:
            optimizer: whose step it is.
        """
        return 1

    def check_call(self, optimizer: Optimizer, closure: Closure | None, passes: int | None) -> None:
        """Raise an error, before a step begins, for arguments of `step` that do not fit.

        Args:
            optimizer: whose step it is.
            closure: the closure given to `step`, or None.
            passes: the `closure_passes` given to `step`, or None.

        Raises:
            ValueError: `closure_passes` for a gradient that is not SAM's.
            RuntimeError: there is no closure, and it needs one.
        """
        if passes is not None:
            raise ValueError(f"closure_passes belongs to SAM gradients, {optimizer.who} has none")
        if closure is None and self.needs_closure is not None:
            raise RuntimeError(f"{optimizer.who} {self.needs_closure}: step needs a closure")

    def skips_by_itself(self, optimizer: Optimizer) -> bool:
        """Whether a GradScaler must call the step even if gradients overflowed, because there is something to undo.

        Args:
            optimizer: whose step it is.
        """
        return self.needs_closure is not None

    def go_ahead(self, optimizer: Optimizer) -> bool:
        """Move the models to where the next gradient is to be taken, if that is known already.

        Args:
            optimizer: whose models they are.

        Returns:
            Whether they were moved.
        """
        return False

    def bind(self, optimizer: Optimizer) -> None:
        """Called when the buffers have been laid out, or laid out anew.

        Args:
            optimizer: whose buffers they are.
        """

    def take(self, optimizer: Optimizer, closure: Closure | None, passes: int | None = None) -> Any:
        """Leave every agent's gradient in `optimizer.rows.g`, from a closure or as it was taken before.

        Models may be left elsewhere if `optimizer.phase` says what to return to. Nothing else may change.

        Args:
            optimizer: whose parameters and gradients they are.
            closure: evaluates the loss and its gradient; None if `.grad` is already there. Call it through
                `optimizer.evaluate`, so that signals may interrupt it.
            passes: the `closure_passes` given for this step, with SAM.

        Returns:
            The loss; None without a closure.

        Raises:
            RuntimeError: there is no closure, and it needs one.
        """
        return None if closure is None else optimizer.evaluate(closure)

    def found(self, optimizer: Optimizer) -> Found:
        """Called before anything changes, with the gradients in their buffer: refuse them, or hand them on.

        Args:
            optimizer: whose gradients they are.

        Raises:
            NonFiniteGradientError: a gradient is not finite, see `nonfinite` of `fs.Optimizer`.
        """
        optimizer.collect()
        return Found(optimizer.check_gradients())

    def evaluate(
        self, optimizer: Optimizer, closure: Closure, slot: int = 0
    ) -> tuple[Any, torch.Tensor]:
        """Leave the gradients at the models that the rows hold, whatever these are.

        Args:
            optimizer: whose rows they are. They may hold other models afterwards.
            closure: evaluates the loss and its gradient.
            slot: number of this evaluation among those of a step.

        Returns:
            The loss, and the norms `[agents]` float32.
        """
        loss = self.take(optimizer, closure)
        with use_backend(optimizer.backend):
            return loss, self.found(optimizer).norm

    def keep(self, optimizer: Optimizer) -> None:
        """Called when all groups have stepped and nothing can fail any more: make what was found the state.

        Args:
            optimizer: whose step it is.
        """

    def perturb(self, optimizer: Optimizer, zero_grad: bool = False) -> None:
        """Move the models to where the second gradient is to be taken.

        Args:
            optimizer: whose models they are.
            zero_grad: whether to zero the gradients afterwards.

        Raises:
            RuntimeError: there is no such place.
        """
        raise RuntimeError(
            f"{optimizer.who} does not perturb its parameters between two phases: call step() alone"
        )


class Plain(Gradient):
    """The gradient at the model, one a step; the default.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fs.Optimizer(model.parameters(), gradient=fs.gradients.Plain())
        >>> optimizer.evaluations
        1
    """


def at_one_model(of: Gradient | None) -> Gradient:
    """What `of=` means, None being plain; raises ValueError where it goes to other models by itself."""
    if of is not None and (not isinstance(of, Gradient) or of.needs_closure is not None):
        raise ValueError(
            f"of must be a gradient at one model, fs.gradients.Plain() or SAM(...), got {of!r}"
        )
    return Plain() if of is None else of
