"""SAM around a gossip step: two gradient evaluations a step, at the model and at its perturbation, or fewer."""

from typing import Any, ClassVar, Literal

import torch

from fastsaddle.gradients.ascents import SAM
from fastsaddle.gradients.perturbation import PerturbingOptimizer
from fastsaddle.kernels.op import use_backend
from fastsaddle.optimizer.stacked_optimizer import Closure


class SharpnessAwareOptimizer(PerturbingOptimizer):
    """Two-pass base: perturb every agent's model by rho g / ||g||, then step with the gradient taken there.

    Foret et al. 2020 (arXiv:2010.01412), algorithm 1, with one norm over the whole model of each agent. Weight decay is
    not part of the perturbing gradient; it enters the step, at the restored model. `sam` chooses a cheaper way.

    Three customs of SAM users, told apart by `closure_passes`, never guessed:

    * `step(closure)`, closure_passes=2: the closure does zero_grad, loss and backward; it is called twice.
    * `loss.backward(); step(closure, closure_passes=1)`: the closure does loss and backward of the second pass;
      gradients are zeroed before it is called.
    * `loss.backward(); perturb(zero_grad=True); loss2.backward(); step()`; `first_step` and `second_step` are the same.

    A step that needs fewer passes (see `passes`) calls the closure less often: with LookSAM most steps need no
    `perturb()`, with MomentumSAM it needs no gradient.
    """

    kept: ClassVar[tuple[str, ...]] = (*PerturbingOptimizer.kept, "closure_passes")

    def __init__(
        self, *args: Any, closure_passes: Literal[1, 2], sam: SAM | None, **kwargs: Any
    ) -> None:
        check_closure_passes(closure_passes)
        self.closure_passes = closure_passes
        super().__init__(*args, sam=sam, **kwargs)

    @torch.no_grad()
    def perturb(self, zero_grad: bool = False) -> None:
        """Move every agent to x + rho g / ||g||, keeping x; `zero_grad` then zeroes the gradients.

        Raises:
            RuntimeError: the parameters are perturbed already.
            NonFiniteGradientError: see `nonfinite`; nothing has moved.
        """
        if self.perturbed:
            raise RuntimeError("the parameters are perturbed already: step() or restore() first")
        with use_backend(self.backend):
            self._prepare()
            self._perturb(zero_grad)

    def first_step(self, zero_grad: bool = False) -> None:
        """The same as `perturb`, under its customary name."""
        self.perturb(zero_grad)

    def second_step(self, zero_grad: bool = False) -> None:
        """The same as `step()` after `perturb`, under its customary name."""
        self.step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Closure | None = None, *, closure_passes: Literal[1, 2] | None = None
    ) -> Any:
        """Step with the gradient at the perturbed model, then gossip.

        Args:
            closure: evaluates the loss and its gradient; see the class for the customs.
            closure_passes: overrides the constructor's value for this step.

        Returns:
            The closure's first loss, or None where it was not called.

        Raises:
            RuntimeError: no closure and no `perturb()` before where this step needs it, or both.
            NonFiniteGradientError: see `nonfinite`; parameters are restored.
        """
        customs = self.closure_passes if closure_passes is None else closure_passes
        check_closure_passes(customs)
        if closure is None:
            if not self.perturbed and not self._is_plain:
                raise RuntimeError(
                    f"{type(self).__name__} needs two gradients a step: pass a closure, "
                    "or call perturb() and take the gradient again before step()"
                )
            self._finish()
            return None
        self._refuse_perturbed("stepped with a closure")
        loss = self._sharp_gradient(closure, customs)
        self._finish()
        return loss

    def _sharp_gradient(self, closure: Closure, customs: int) -> Any:
        """Leave the gradient to step with; parameters stay perturbed where it was taken. Returns the first loss."""
        loss, plain = None, self._is_plain
        if customs == 2 and (plain or self.passes == 2):
            with torch.enable_grad():
                loss = closure()
        if plain:
            return loss
        try:
            self.perturb(zero_grad=customs == 1)
            with torch.enable_grad():
                second = closure()
        except BaseException:
            self.restore()
            raise
        return second if loss is None else loss

    def _finish(self) -> None:
        try:
            with use_backend(self.backend):
                self._prepare()
                norm = self._check_gradients(gate=self._first_norm)
                self._looked = []
                self._look(norm)
                self._gossip(self._saved if self.perturbed else None, norm)
                self._keep_looks()
        except BaseException:
            self.restore()
            raise
        self._settle()

    def state_dict(self) -> dict[str, Any]:
        self._refuse_perturbed("saved")
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._refuse_perturbed("loaded")
        super().load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self._refuse_perturbed("given another group")
        super().add_param_group(param_group)

    def _refuse_perturbed(self, what: str) -> None:
        if self.perturbed:
            raise RuntimeError(
                f"the optimizer cannot be {what} while parameters are perturbed: step() or restore() first"
            )

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_perturbed("copied")
        return super().__getstate__()


def check_closure_passes(passes: int) -> None:
    """Raise ValueError unless `passes` is 1 or 2."""
    if passes not in (1, 2):
        raise ValueError(
            f"closure_passes must be 2 (the closure makes both passes) or 1 (the second), got {passes!r}"
        )
