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
    """What a step goes on with; the gradients themselves are in `optimizer.rows.g`.

    Attributes:
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
    """The gradient at the model, and base of the other ways. Your own is one class: write `take`.

    A gradient keeps nothing itself, so that one may serve several optimizers: states and what a step passes on belong
    to the optimizer.

    Attributes:
        hyperparameters: entries of the parameter groups that it reads, and what they may be.
        defaults: their values.
        states: what it keeps between steps.
        decides_on_host: what it reads or counts on the host, which keeps a step out of a CUDA graph; None: nothing.
        ascent: how it comes by a SAM gradient; None where it is none.
        needs_closure: why a step cannot do without a closure; None where it can.
        at_mixed: whether it is taken at the mixed models.
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
        """What it keeps beside such a communicator."""
        return self.states

    def slot_states(self, slot: int) -> tuple[State, ...]:
        """What it keeps for the gradients at each agent's neighbor number `slot`, from 1 on."""
        return ()

    def evaluations(self, communicator: Communicator) -> float:
        """Gradients that a step takes, on average, for each agent."""
        return 1

    def takes_several(self, optimizer: Optimizer) -> bool:
        """Whether the next step takes several gradients, none of which may then be a sum with an earlier one."""
        return self.evaluations(optimizer.communicator) > 1

    def refuses(self, rule: Rule, communicator: Communicator) -> str | None:
        """Why it cannot be combined with these; None where it can."""
        return None

    def passes(self, optimizer: Optimizer) -> int:
        """Gradients that the next step takes at each model."""
        return 1

    def check_call(self, optimizer: Optimizer, closure: Closure | None, passes: int | None) -> None:
        """Raise, before a step begins, for arguments that it cannot work with."""
        if passes is not None:
            raise ValueError(f"closure_passes belongs to SAM gradients, {optimizer.who} has none")
        if closure is None and self.needs_closure is not None:
            raise RuntimeError(f"{optimizer.who} {self.needs_closure}: step needs a closure")

    def skips_by_itself(self, optimizer: Optimizer) -> bool:
        """Whether a GradScaler must call the step where gradients overflowed, too, to undo or to refuse it."""
        return self.needs_closure is not None

    def go_ahead(self, optimizer: Optimizer) -> bool:
        """Move the models to where the next gradient is to be taken, where that is known; whether it is."""
        return False

    def bind(self, optimizer: Optimizer) -> None:
        """Called when the buffers have been laid out, or laid out anew."""

    def take(self, optimizer: Optimizer, closure: Closure | None, passes: int | None = None) -> Any:
        """Leave every agent's gradient in `optimizer.rows.g`, from a closure or taken before. Returns the loss.

        Models may be left elsewhere where `optimizer.phase` says what to return to. Nothing else may change.

        Args:
            optimizer: whose parameters and gradients they are.
            closure: evaluates the loss and its gradient; None where `.grad` is already there. To be called by
                `optimizer.evaluate`, in which alone signals act at once.
            passes: what `closure_passes` named for this step; of SAM.

        Raises:
            RuntimeError: no closure where one is needed.
        """
        return None if closure is None else optimizer.evaluate(closure)

    def found(self, optimizer: Optimizer) -> Found:
        """Called before anything changes, with gradients in their buffer: refuse them, or say what a step goes on with.

        Raises:
            NonFiniteGradientError: see `nonfinite`.
        """
        optimizer.collect()
        return Found(optimizer.check_gradients())

    def evaluate(
        self, optimizer: Optimizer, closure: Closure, slot: int = 0
    ) -> tuple[Any, torch.Tensor]:
        """Leave the gradients at the models that the rows hold, whatever these are; the loss, and norms `[agents]`.

        Args:
            optimizer: whose rows they are. They may hold others afterwards.
            closure: evaluates the loss and its gradient.
            slot: which of a step's several evaluations this is.
        """
        loss = self.take(optimizer, closure)
        with use_backend(optimizer.backend):
            return loss, self.found(optimizer).norm

    def keep(self, optimizer: Optimizer) -> None:
        """Called when all groups have stepped and nothing can fail any more: make what was found the state."""

    def perturb(self, optimizer: Optimizer, zero_grad: bool = False) -> None:
        """Move the models to where the second gradient is to be taken.

        Raises:
            RuntimeError: there is no such place.
        """
        raise RuntimeError(
            f"{optimizer.who} does not perturb its parameters between two phases: call step() alone"
        )


class Plain(Gradient):
    """The gradient at the model, one a step."""


def at_one_model(of: Gradient | None) -> Gradient:
    """What `of=` means, None being plain; raises ValueError where it goes to other models by itself."""
    if of is not None and (not isinstance(of, Gradient) or of.needs_closure is not None):
        raise ValueError(
            f"of must be a gradient at one model, fs.gradients.Plain() or SAM(...), got {of!r}"
        )
    return Plain() if of is None else of
