"""Base of methods whose agents take local steps alone and synchronize through an average of all of them."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.period import QSR, check_steps
from fastsaddle.comm.stacked import Stacked
from fastsaddle.graphs import topology
from fastsaddle.kernels.consensus import consensus
from fastsaddle.kernels.op import use_backend
from fastsaddle.optimizer.decentralized_optimizer import DecentralizedOptimizer
from fastsaddle.optimizer.hyperparameters import check_group
from fastsaddle.rules.any_torch import LocalOptimizers

# parameters, or groups of them, of one agent to what steps them
Local = Callable[[ParamsT], torch.optim.Optimizer]


class AveragingOptimizer(DecentralizedOptimizer):
    """Local steps of SGD with momentum, or of any torch optimizer, and every `period` steps a synchronization.

    Nobody talks in between. A synchronization is an all-reduce: 2 (n - 1) models are sent by all n agents together, as
    in its ring algorithm. Parameter groups remember `steps_done` and `next_synchronization`.

    Args:
        agents: leading dimension of every parameter.
        period: steps between synchronizations, or `QSR`.
        local: called with each agent's own parameters (with groups of them if this optimizer has several); takes the
            local steps instead of SGD, at this optimizer's learning rates. Its state is saved with this one's.
    """

    kind = 1
    state_name = "momentum_buffer"
    remembered = ("steps_done", "next_synchronization")
    # options that act on whole models, and must be equal in all parameter groups
    shared: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[tuple[str, ...]] = (*DecentralizedOptimizer.kept, "period", "local")

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        agents: int,
        period: int | QSR,
        local: Local | None,
        nonfinite: str,
        backend: str | None,
    ) -> None:
        check_steps("agents", agents)
        if not isinstance(period, QSR):
            check_steps("period", period)
        if local is not None and (defaults["weight_decay"] or defaults["maximize"]):
            raise ValueError(
                "weight_decay and maximize belong to the optimizers that local= makes, got "
                f"weight_decay {defaults['weight_decay']} and maximize {defaults['maximize']}"
            )
        self.period, self.local = period, local
        self._wanted_agents = agents
        self.locals: LocalOptimizers | None = None
        self._held: list[dict[str, Any]] | None = None
        super().__init__(
            params,
            {
                **defaults,
                "steps_done": 0,
                "next_synchronization": period.first if isinstance(period, QSR) else period,
            },
            topology=None,
            consensus_step=1.0,
            nonfinite=nonfinite,
            backend=backend,
        )

    def _connect(self, **connection: Any) -> tuple[int, bool]:  # type: ignore[override]
        self.topology = None
        agents = self._wanted_agents
        # local steps are a gossip step in which nobody listens
        alone = topology.from_matrix(torch.eye(agents), allow_disconnected=True)
        self.communicator = Stacked(alone)
        return agents, True

    @property
    def decides_on_host(self) -> str | None:
        return f"{type(self).__name__} counts on the host when the agents are averaged"

    @property
    def state_names(self) -> tuple[str, ...]:
        return () if self.local is not None else super().state_names

    def _bind(self) -> None:
        self._check_shared()
        super()._bind()
        if self.local is not None and self.locals is None:
            self.locals = LocalOptimizers(self.local, self)
            if self._held is not None:
                self.locals.load_state_dicts(self._held)
        if self.locals is not None:
            self.locals.attach()

    def _check_shared(self) -> None:
        """Raise ValueError, before anything moves, for what a synchronization could not use."""
        lr = self.param_groups[0]["lr"]
        if isinstance(self.period, QSR) and torch.as_tensor(lr).numel() > 1:
            raise ValueError(f"QSR needs one lr for all agents, got {tuple(lr.shape)} of them")
        for name in self.shared:
            values = [group[name] for group in self.param_groups]
            check_group({name: values[0]})
            if any(not torch.equal(*map(torch.as_tensor, (values[0], v))) for v in values[1:]):
                raise ValueError(f"{name} must be equal in all parameter groups, got {values}")

    def _advance(self, norm: torch.Tensor) -> None:
        self._check_shared()
        if self.locals is None:
            self._gossip(None, norm)
        else:
            self.locals.step(norm)
            self.rounds.add_(1)
        first = self.param_groups[0]
        done = first["steps_done"] + 1
        due = first["next_synchronization"]
        if done >= due:
            self.synchronize()
            due = done + self._next_period(done)
        for group in self.param_groups:
            group.update(steps_done=done, next_synchronization=due)

    def _next_period(self, done: int) -> int:
        if isinstance(self.period, QSR):
            return self.period.period(float(self.param_groups[0]["lr"]), done)
        return self.period

    @torch.no_grad()
    def synchronize(self) -> None:
        """Bring all agents together now; `step` does it by itself when it is time."""
        self._follow()
        x = self.rows.x[:, self._first_columns(len(self.param_groups))]
        with use_backend(self.backend):
            self._meet(x, *self._mean(x))
        self.bytes_sent += 2 * (self.agents - 1) * 4 * self.dim

    def _mean(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean `[columns]` float32 of x `[agents, columns]`, and squared distances to it `[agents]` float64."""
        mean = torch.empty(x.shape[1], dtype=torch.float32, device=x.device)
        squared_distance = torch.empty(self.agents, dtype=torch.float64, device=x.device)
        consensus(x, mean, squared_distance)
        return mean, squared_distance

    def _meet(self, x: torch.Tensor, mean: torch.Tensor, squared_distance: torch.Tensor) -> None:
        """Move x `[agents, columns]`, given its mean `[columns]` and distances to it `[agents]` float64."""
        # every method has its own
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """torch's, and `local`: the states of the agents' own optimizers."""
        states = {} if self.locals is None else {"local": self.locals.state_dicts()}
        return {**super().state_dict(), **states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        states = state_dict.get("local")
        if (states is None) != (self.locals is None):
            raise ValueError(
                f"state must {'not ' if self.locals is None else ''}come with local optimizers' states, "
                f"got {', '.join(state_dict)}"
            )
        super().load_state_dict({n: v for n, v in state_dict.items() if n != "local"})
        if self.locals is not None and states is not None:
            self.locals.load_state_dicts(states)

    def __getstate__(self) -> dict[str, Any]:
        held = None if self.locals is None else self.locals.state_dicts()
        return {**super().__getstate__(), "locals": None, "_held": held}
