"""Every agent's gradient as a mean of gradients taken by, or at, its neighbors: the exchange of NGM."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch

from fastsaddle.comm.base import Exchange, MixingLists, local_models
from fastsaddle.comm.choco import CompressedGossip
from fastsaddle.compressors._wire import row_norms
from fastsaddle.compressors.base import Compressor
from fastsaddle.graphs.gradient_lists import gradient_sources
from fastsaddle.kernels.mix_update import mix_update
from fastsaddle.kernels.op import use_backend
from fastsaddle.kernels.weighted_sum import weighted_sum
from fastsaddle.optimizer.decentralized_optimizer import DecentralizedOptimizer
from fastsaddle.optimizer.stacked_optimizer import Closure
from fastsaddle.rules.tracking_optimizer import column

# seeds of messages to the first, second, ... neighbor lie as far apart as those of groups, elsewhere
SLOT_STRIDE = 0xBF58476D1CE4E5B9
# for each group: the states after telling the neighbors, and the bytes that took
Rounds = list[tuple[Exchange, int]]


class CrossGradients(DecentralizedOptimizer):
    """Base of the cross-gradient methods: a closure evaluated on the neighbors' models too, then a mean, then a step.

    The stack's rows hold, one slot after the other, each agent's own model, its first neighbor's, its second's, ...;
    the closure evaluates whatever they hold on every agent's own batch, so that a graph of largest degree d takes d + 1
    evaluations. BatchNorm's statistics move at the own models only. Parameters return to their values in any case.

    State: `momentum_buffer` or `quasi_global`; with a compressor `x_hat`, and for cross-gradients that are sent
    `residual_1` ..., what compression has kept back from each neighbor, ascending.
    """

    kept: ClassVar[tuple[str, ...]] = (
        *DecentralizedOptimizer.kept,
        *("cross_gradients", "mixed_self_gradient", "kind", "state_name"),
    )

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        *,
        cross_gradients: Literal["data", "model"],
        mixed_self_gradient: bool,
        **others: Any,
    ) -> None:
        if cross_gradients not in ("data", "model"):
            raise ValueError(f'cross_gradients must be "data" or "model", got {cross_gradients!r}')
        self.cross_gradients, self.mixed_self_gradient = cross_gradients, mixed_self_gradient
        is_local = defaults["qg_momentum"] is None
        self.kind = 1 if is_local else 2
        self.state_name = "momentum_buffer" if is_local else "quasi_global"
        super().__init__(params, defaults, **others)

    @property
    def _sent_compressor(self) -> Compressor | None:
        """What cross-gradients are compressed with; None where they are sent whole, or not at all."""
        if self.cross_gradients == "data" and isinstance(self.communicator, CompressedGossip):
            return self.communicator.choco.compressor
        return None

    @property
    def evaluations(self) -> int:
        """Models that the closure is evaluated on in a step: the largest degree and one."""
        return 1 if self.topology is None else 1 + max(map(len, self.topology.neighbors))

    @property
    def state_names(self) -> tuple[str, ...]:
        slots = range(1, self.evaluations) if self._sent_compressor is not None else ()
        return (*super().state_names, *(f"residual_{slot}" for slot in slots))

    def _bind(self) -> None:
        for group in self.param_groups:
            if (group["qg_momentum"] is None) != (self.kind == 1):
                raise ValueError(
                    "qg_momentum must be None in all parameter groups or in none, "
                    f"got {[g['qg_momentum'] for g in self.param_groups]}"
                )
        super()._bind()
        device = self.rows.x.device
        self._lists = MixingLists(self.topology)
        self._gradients = self.rows.layout.allocate(self.evaluations * self.agents, device)
        self._sources = gradient_sources(self._lists.on(device)[0], self.cross_gradients == "data")
        # how many lists reach each slot; found on the host, as reading a sum would wait for a GPU
        near = () if self.topology is None else self.topology.neighbors
        self._listeners = [sum(len(n) >= slot for n in near) for slot in range(self.evaluations)]

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # type: ignore[override]
        """Evaluate the closure on all models that the method asks for, then step. Returns the loss at the own models.

        Raises:
            RuntimeError: no closure.
            NonFiniteGradientError: see `nonfinite`.
        """
        if closure is None:
            raise RuntimeError(
                f"{type(self).__name__} takes gradients at the neighbors' models: step needs a closure"
            )
        with use_backend(self.backend):
            self._follow()
            own = self.rows.x.clone()
            known, mixed, rounds = self._tell(own)
            loss = self._evaluate(closure, own, known, mixed)
            self._commit(own, mixed, rounds)
        return loss

    def _tell(self, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Rounds]:
        """What neighbors know of the models, those models mixed, and per group the states and bytes to be committed."""
        known, mixed, rounds = torch.empty_like(own), own.clone(), []
        for index in range(len(self.param_groups)):
            columns, exchange = self._columns(index), self._exchange(index)
            exchange = replace(
                exchange,
                states={name: rows.clone() for name, rows in exchange.states.items()},
                squares=torch.zeros_like(exchange.squares),
            )
            nbytes = 0
            if columns.stop > columns.start:
                x = own[:, columns]
                nbytes = self.communicator.publish(x, exchange)
                known[:, columns] = self.communicator.copies(x, exchange)
                mixed[:, columns] = self.communicator.pulled(x, exchange)
            rounds.append((exchange, nbytes))
        return known, mixed, rounds

    def _evaluate(
        self, closure: Closure, own: torch.Tensor, known: torch.Tensor, mixed: torch.Tensor
    ) -> Any:
        """All slots' gradients into their buffer; agents whose gradient is not finite have NaN there."""
        columns = self._first_columns(len(self.param_groups))
        first = mixed if self.mixed_self_gradient else own
        loss = None
        try:
            for slot in range(self.evaluations):
                whose = self._lists.whose(slot, own.device)
                model = first if slot == 0 else known.index_select(0, whose)
                self.rows.x[:, columns].copy_(model[:, columns])
                self.rows.second_pass = slot > 0
                found, norm = self._gradient(closure, slot)
                loss = found if slot == 0 else loss
                block = self._gradients[slot * self.agents : (slot + 1) * self.agents]
                finite = norm.isfinite()[:, None]
                block[:, columns] = torch.where(finite, self.rows.g[:, columns], torch.nan)
        finally:
            self.rows.x[:, columns].copy_(own[:, columns])
            self.rows.second_pass = False
        return loss

    def _gradient(self, closure: Closure, slot: int) -> tuple[Any, torch.Tensor]:
        """Leave the gradients at the models that the rows hold; the loss, and their norms `[agents]`."""
        with torch.enable_grad():
            loss = closure()
        self._prepare()
        return loss, self._check_gradients()

    def _commit(self, own: torch.Tensor, mixed: torch.Tensor, rounds: Rounds) -> None:
        # all read before the first group moves; the norms of the sums are not known yet
        steps = [self._local_step(index, None, None) for index in range(len(self.param_groups))]
        columns = self._first_columns(len(steps))
        g = self.rows.g[:, columns]
        nbytes = sum(count for _, count in rounds) + self._send_gradients()
        _, weights = self._lists.on(own.device)
        weighted_sum(self._gradients[:, columns], g, self._sources, weights)
        norm = row_norms(g)
        start = mixed if self.mixed_self_gradient else own
        for index, step in enumerate(steps):
            part = self._columns(index)
            if part.stop == part.start:
                continue
            G = -step.g if step.maximize else step.g
            G = G + column(step.weight_decay) * start[:, part]
            zero = torch.zeros_like(step.lr)
            step = replace(step, g=G, weight_decay=zero, norm=norm, maximize=False)
            h = local_models(mixed[:, part], step)
            momentum = step.momentum if step.kind == 2 else None
            itself = self._lists.itself(own.device)
            x = self.rows.x[:, part]
            mix_update(x, own[:, part], h, momentum, *itself, step.lr, step.mu, norm, *step.random)
        self._take(rounds)
        self.bytes_sent += nbytes
        self.rounds.add_(1)

    def _take(self, rounds: Rounds) -> None:
        """Make the states of what was told the optimizer's."""
        for index, (told, _) in enumerate(rounds):
            for name, rows in told.states.items():
                self.flat_state[name][:, self._columns(index)] = rows
            self._squares[index] = told.squares

    def _send_gradients(self) -> int:
        """Compress what each slot sends, with error feedback. Returns the bytes of all cross-gradients."""
        if self.cross_gradients == "model":
            return 0
        messages, compressor = self.communicator.messages, self._sent_compressor
        if compressor is None:
            return 4 * messages * self.dim
        neighbors, total = self._lists.on(self._gradients.device)[0], 0
        for slot in range(1, self.evaluations):
            block = self._gradients[slot * self.agents : (slot + 1) * self.agents]
            listening = neighbors[:, slot] >= 0
            for index, layout in enumerate(self._layouts):
                part = block[:, self._columns(index)]
                if not part.shape[1]:
                    continue
                # a gradient that is not finite is sent as zero; nobody is sent nothing
                sent = listening[:, None] & part.isfinite().all(1, keepdim=True)
                seed = (self._seed(index) + slot * SLOT_STRIDE) % 2**63
                residual = self.flat_state[f"residual_{slot}"][:, self._columns(index)]
                payload = compressor.compress_ef_(
                    torch.where(sent, part, 0.0), residual, seed, self.rounds, layout=layout
                )
                part.copy_(compressor.decode(payload))
                total += payload.nbytes // self.agents * self._listeners[slot]
        return total
