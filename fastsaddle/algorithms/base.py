"""SAM around a gossip step: two gradient evaluations a step, at the model and at its perturbation."""

from typing import Any, Literal

import torch

from fastsaddle.kernels._op import use_backend
from fastsaddle.kernels.sam_perturb import sam_perturb
from fastsaddle.optimizer import DecentralizedOptimizer
from fastsaddle.stacked_optimizer import Closure


class SharpnessAwareOptimizer(DecentralizedOptimizer):
    """Two-pass base: perturb every agent's model by rho g / ||g||, then step with the gradient taken there.

    Foret et al. 2020 (arXiv:2010.01412), algorithm 1, with one norm over the whole model of each agent. Weight decay is
    not part of the perturbing gradient; it enters the step, at the restored model.

    Three customs of SAM users, told apart by `closure_passes`, never guessed:

    * `step(closure)`, closure_passes=2: the closure does zero_grad, loss and backward; it is called twice.
    * `loss.backward(); step(closure, closure_passes=1)`: the closure does loss and backward of the second pass;
      gradients are zeroed before it is called.
    * `loss.backward(); perturb(zero_grad=True); loss2.backward(); step()`; `first_step` and `second_step` are the same.
    """

    def __init__(
        self,
        *args: Any,
        adaptive: bool,
        closure_passes: Literal[1, 2],
        **kwargs: Any,
    ) -> None:
        check_closure_passes(closure_passes)
        self.adaptive, self.closure_passes = adaptive, closure_passes
        self._first_norm: torch.Tensor | None = None
        # groups whose saved copy holds the model to return to
        self._moved = 0
        super().__init__(*args, **kwargs)

    @property
    def perturbed(self) -> bool:
        """Whether the parameters are at the perturbed model now."""
        return self._first_norm is not None

    def _bind(self) -> None:
        super()._bind()
        before: list[torch.Tensor] = getattr(self, "_saved_parts", [])
        self._saved = self.rows.layout.allocate(self.agents, self.rows.x.device)
        self._saved_parts = self.rows.parts(self._saved)[: self._count()]
        if self.perturbed:
            for held, part in zip(before, self._saved_parts, strict=True):
                part.copy_(held)

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
            groups = range(len(self.param_groups))
            norm = self._check_gradients(scale=self.rows.x if self.adaptive else None)
            radii = [self._scalar(index, "rho") for index in groups]
            self._first_norm, self._moved = norm, 0
            try:
                for index in groups:
                    # counted first: Ctrl-C during a kernel is noticed when it has returned
                    self._moved = index + 1
                    self._perturb_group(index, radii[index], norm)
                self.rows.second_pass = True
                if zero_grad:
                    self.zero_grad()
            except BaseException:
                self.restore()
                raise

    def _perturb_group(self, index: int, rho: torch.Tensor, norm: torch.Tensor) -> None:
        part, maximize = self._columns(index), bool(self.param_groups[index]["maximize"])
        if part.stop > part.start:
            x, g, saved = (rows[:, part] for rows in (self.rows.x, self.rows.g, self._saved))
            sam_perturb(x, g, saved, rho, norm, self.adaptive, maximize)

    @torch.no_grad()
    def restore(self) -> None:
        """Undo a perturbation exactly, for evaluation or a skipped step; does nothing where there is none."""
        if self.perturbed:
            self._follow()
            columns = self._first_columns(self._moved)
            self.rows.x[:, columns].copy_(self._saved[:, columns])
            self._settle()

    def _settle(self) -> None:
        self._first_norm = None
        self.rows.second_pass = False

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
            The closure's first loss, or None without a closure.

        Raises:
            RuntimeError: no closure and no `perturb()` before, or both.
            NonFiniteGradientError: see `nonfinite`; parameters are restored.
        """
        passes = self.closure_passes if closure_passes is None else closure_passes
        check_closure_passes(passes)
        if closure is None:
            if not self.perturbed:
                raise RuntimeError(
                    f"{type(self).__name__} needs two gradients a step: pass a closure, "
                    "or call perturb() and take the gradient again before step()"
                )
            self._finish()
            return None
        self._refuse_perturbed("stepped with a closure")
        loss = None
        if passes == 2:
            with torch.enable_grad():
                loss = closure()
        try:
            self.perturb(zero_grad=passes == 1)
            with torch.enable_grad():
                second = closure()
        except BaseException:
            self.restore()
            raise
        self._finish()
        return loss if passes == 2 else second

    def _finish(self) -> None:
        try:
            with use_backend(self.backend):
                self._prepare()
                norm = self._check_gradients(gate=self._first_norm)
                self._gossip(self._saved, norm)
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
        kept = {
            "adaptive": self.adaptive,
            "closure_passes": self.closure_passes,
            "_first_norm": None,
        }
        return {**super().__getstate__(), **kept}


def check_closure_passes(passes: int) -> None:
    """Raise ValueError unless `passes` is 1 or 2."""
    if passes not in (1, 2):
        raise ValueError(
            f"closure_passes must be 2 (the closure makes both passes) or 1 (the second), got {passes!r}"
        )
