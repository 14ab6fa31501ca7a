"""Gradients at the mixed models, where every agent would be after a gossip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastsaddle.comm.base import Communicator
from fastsaddle.gradients.ascents import Ascent
from fastsaddle.gradients.base import Found, Gradient, at_one_model
from fastsaddle.kernels.op import use_backend
from fastsaddle.optimizer.state import State

if TYPE_CHECKING:
    from fastsaddle.gradients.base import Closure
    from fastsaddle.optimizer.shell import Optimizer
    from fastsaddle.rules.base import Rule


class Mixed(Gradient):
    """The gradient at the mixed model sum_j W_ij x_j, which `fs.rules.GUT` steps by.

    Parameters return to the models themselves afterwards. Aketi, Hashemi and Roy 2023 (arXiv:2305.04792) and the
    authors' code. Weight decay is taken at the mixed model too.

    Args:
        of: the gradient that is taken there, `fs.gradients.Plain()` or `fs.gradients.SAM(...)`; None is plain.

    Raises:
        ValueError: `of` is not taken at one model.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(),
        ...     gradient=fs.gradients.Mixed(fs.gradients.SAM(rho=0.05)),
        ...     rule=fs.rules.GUT(tracking=0.1),
        ...     communicator=fs.comm.Gossip("ring"),
        ... )
    """

    needs_closure = "takes gradients at the mixed models"
    at_mixed = True

    def __init__(self, of: Gradient | None = None) -> None:
        self.of = at_one_model(of)
        self.hyperparameters = self.of.hyperparameters

    @property
    def defaults(self) -> dict[str, Any]:
        return self.of.defaults

    @property
    def ascent(self) -> Ascent | None:  # type: ignore[override]
        return self.of.ascent

    @property
    def decides_on_host(self) -> str | None:  # type: ignore[override]
        return self.of.decides_on_host

    def states_with(self, communicator: Communicator) -> tuple[State, ...]:
        return self.of.states_with(communicator)

    def evaluations(self, communicator: Communicator) -> float:
        return self.of.evaluations(communicator)

    def refuses(self, rule: Rule, communicator: Communicator) -> str | None:
        if not rule.mixes_before:
            return f"{rule.name} mixes after its gradients, at the mixed models they belong to GUT"
        return self.of.refuses(rule, communicator)

    def bind(self, optimizer: Optimizer) -> None:
        self.of.bind(optimizer)

    def passes(self, optimizer: Optimizer) -> int:
        """Number of gradients that the next step takes.

        Args:
            optimizer: whose step it is.
        """
        return self.of.passes(optimizer)

    def take(self, optimizer: Optimizer, closure: Closure | None, passes: int | None = None) -> Any:
        assert closure is not None
        with use_backend(optimizer.backend):
            for comm, columns in optimizer.begin_rounds():
                comm.told = comm.mixed(optimizer.rows.x[:, columns])
        optimizer.visit(None)
        loss, norm = self.of.evaluate(optimizer, closure)
        optimizer.leave()
        optimizer.phase.passing["norm"] = norm
        return loss

    def found(self, optimizer: Optimizer) -> Found:
        return Found(optimizer.phase.passing["norm"], at_mixed=True)

    def keep(self, optimizer: Optimizer) -> None:
        self.of.keep(optimizer)
