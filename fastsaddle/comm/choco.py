"""CHOCO gossip: agents send compressed differences to public copies of their models, and mix the copies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from fastsaddle.comm.base import Exchange, LocalStep, local_models, take_mixed
from fastsaddle.comm.lists import check_consensus_step
from fastsaddle.comm.stacked import StackedGossip
from fastsaddle.compressors._wire import largest_of, refuse_nonfinite, row_norms, runs, table_of
from fastsaddle.compressors.base import Compressor, Payload
from fastsaddle.compressors.identity import Identity
from fastsaddle.compressors.stochastic_quantizer import StochasticQuantizer
from fastsaddle.graphs.faults import Faulty
from fastsaddle.graphs.schedule import Schedule, mean_messages
from fastsaddle.kernels._shared.bfloat16.reference import keep
from fastsaddle.kernels._shared.buckets.arguments import MOST_ELEMENTS, MOST_LEVELS
from fastsaddle.kernels._shared.philox.reference import COPIES
from fastsaddle.kernels._shared.square_root import square_root
from fastsaddle.kernels._shared.step.reference import LOCAL, QUASI_GLOBAL
from fastsaddle.kernels.choco_encode import choco_encode
from fastsaddle.kernels.choco_mix import choco_mix
from fastsaddle.kernels.choco_step import choco_step
from fastsaddle.kernels.mix_neighbors import mix_neighbors
from fastsaddle.optimizer.ranges import ranged
from fastsaddle.optimizer.state import ROUND, State

ORDERS = ("compress-then-mix", "mix-then-compress")
# AdaGossip's constants (arXiv:2404.05919 and its code)
DECAY, SMALL = 0.999, 1e-8


@dataclass(frozen=True)
class Choco:
    """How compressed messages are used; give it as `compressor=` to set more than the compressor.

    With h the models after the local step, x_hat the public copies (zero at first) and gamma the consensus step:

        compress-then-mix    x_hat += Q(h - x_hat);  x = h + gamma (W x_hat - x_hat)
        mix-then-compress    x = h + gamma (W x_hat - x_hat);  x_hat += Q(x - x_hat)

    The first order is that of Koloskova et al. 2019 (arXiv:1902.00340), the second that of the deep learning code of
    arXiv:1907.09356. What an agent has not yet sent stays in its model, so nothing is lost: CHOCO is its own error
    feedback. The mean over agents is that of uncompressed gossip, whatever Q is, unless gamma is adaptive, because
    agents then pull with different strengths.

    Args:
        compressor: Q, an `fs.compressors.Compressor`.
        order: one of the two above; the second can overlap sending with the next local step.
        running_sum: keep sum_{j != i} W_ij x_hat_j up to date instead of the neighbors' copies, as the published code
            does. The result is the same up to rounding; it adds the state `weighted_sum` and needs a W that does not
            change.
        adaptive: AdaGossip (Aketi et al. 2024, arXiv:2404.05919): gamma / (sqrt(v) + 1e-8), at most one, for each
            element, where v is the running mean of the squared pull W x_hat - x_hat. It adds the state `pull_square`.

    Raises:
        ValueError: something that is no compressor, or another order.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> choco = fs.Choco(fs.compressors.Sign(), order="mix-then-compress")
        >>> optimizer = fs.DSGD(stack.parameters(), topology="ring", compressor=choco, consensus_step=0.4)
    """

    compressor: Compressor
    order: Literal["compress-then-mix", "mix-then-compress"] = "compress-then-mix"
    running_sum: bool = False
    adaptive: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.compressor, Compressor):
            raise ValueError(
                "compressor must be None, an fs.compressors.Compressor, or one in an fs.Choco, "
                f"got {self.compressor!r}"
            )
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {self.order!r}")


@dataclass(frozen=True)
class Told:
    """What the agents here send of one row buffer, of whose public copies none has moved.

    Attributes:
        payload: of all of them.
        squares: `[agents, 2]` float64, squared norms of what was to be sent and of what compression loses of it.
        difference: what was to be sent, where squares are yet to be taken.
        lies_in_messages: whether the payload is written where it is sent from.
        has_moved: whether the agents' own copies have moved all the same, as nothing can fail any more.
    """

    payload: Payload
    squares: torch.Tensor | None = None
    difference: torch.Tensor | None = None
    lies_in_messages: bool = False
    has_moved: bool = False


class CompressedGossip(StackedGossip):
    """CHOCO gossip among the rows of one buffer: one kernel for a bucketed quantizer, several for other compressors.

    Args:
        schedule: the graph, or which one each gossip has. Where it changes messages go to the neighbors of any round,
            who must know an agent's copy when its turn comes; the round's W mixes.
        consensus_step: gamma, in [0, 1].
        choco: compressor, order and options.
        every, rounds: as in `Gossip`.

    Raises:
        ValueError: gamma outside [0, 1], `running_sum` where W changes.
    """

    is_compressed = True
    is_elementwise = False

    def __init__(
        self,
        schedule: Schedule,
        consensus_step: float,
        choco: Choco,
        every: int = 1,
        rounds: int = 1,
    ) -> None:
        check_consensus_step(consensus_step)
        # gamma acts on the pull towards the copies, so that the lists are those of W itself
        super().__init__(schedule, consensus_step, every, rounds, dense=False, folded=False)
        self._compress(choco, fused(choco))

    def _compress(self, choco: Choco, whole_step: StochasticQuantizer | None) -> None:
        """Called once, by the constructor.

        Args:
            choco: compressor, order and options.
            whole_step: the quantizer with which a step is one kernel; None where it takes several.
        """
        if choco.running_sum and self._changing is not None:
            raise ValueError(
                "running_sum keeps sums of a W that does not change, got "
                f"{self._changing.schedule!r}: take running_sum=False"
            )
        self.choco, self._whole_step = choco, whole_step
        # one a device, kept for good: a captured graph knows nothing but its address
        self._gammas: dict[torch.device, torch.Tensor] = {}
        options = {"weighted_sum": choco.running_sum, "pull_square": choco.adaptive}
        self.states = (
            State("x_hat", rows="halo", dtype="state"),
            *(State(name, dtype="state") for name, asked in options.items() if asked),
        )

    @property
    def given_up(self) -> str | None:
        if self._changing is None:
            return None
        schedule = self._changing.schedule
        # what falls is not sent
        schedule = schedule.schedule if isinstance(schedule, Faulty) else schedule
        # of all agents, wherever they are
        mean, messages = mean_messages(schedule), schedule.union.messages
        if mean == messages:
            return None
        return (
            f"compressed messages go to the neighbors of any round of {schedule.name}, {messages} in each gossip, "
            f"where {mean:.4g} models would be sent without a compressor"
        )

    @property
    def may_refuse(self) -> bool:  # type: ignore[override]
        return self._whole_step is None

    @property
    def refuses_first(self) -> bool:  # type: ignore[override]
        # in the other order the running mean of an adaptive gamma has moved by then
        moves_before = self.choco.adaptive and self.choco.order == ORDERS[1]
        return self.rounds == 1 and not moves_before

    @property
    def shared_states(self) -> tuple[State, ...]:  # type: ignore[override]
        return (ROUND, *super().shared_states)

    def gossip_step_(self, x: torch.Tensor, step: LocalStep, exchange: Exchange) -> None:
        quantizer = self._whole_step
        if quantizer is not None and self.rounds == 1 and self._draws_alike(step):
            self._fused_step(x, step, self._round(exchange, 0), quantizer)
            self._count(exchange, quantizer.message_bytes(exchange.layout))
            return
        aside = self._aside(x, step, exchange)
        h = local_models(x, aside, exchange.memory("h", x.shape))
        mixed = self.mix(h, exchange)
        settle(step, aside)
        take_mixed(x, step.saved, mixed, step, self.alone(x.device))

    def _aside(self, x: torch.Tensor, step: LocalStep, exchange: Exchange) -> LocalStep:
        """The step, with a copy of the momentum that it moves before the exchange: if that fails, nothing changes."""
        if step.momentum is None or step.kind != LOCAL or x.device.type != "cpu":
            return step
        return replace(step, momentum=exchange.copy_of(step.momentum))

    def _draws_alike(self, step: LocalStep) -> bool:
        """Whether one number serves all draws: messages count gossips, and momentum that is rounded counts steps."""
        return self.every == 1 or step.momentum is None or step.momentum.dtype == torch.float32

    def differences(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        if self.rounds > 1:
            return super().differences(x, exchange)
        now = self._round(exchange, 0)
        if self.choco.order == ORDERS[1]:
            pull = self._pull(now)
            self.publish(x + pull, now)
        else:
            self.publish(x, now)
            pull = self._pull(now)
        if now is not exchange:
            exchange.nbytes += now.nbytes
        return pull

    def _fused_step(
        self, x: torch.Tensor, step: LocalStep, exchange: Exchange, q: StochasticQuantizer
    ) -> None:
        lists = self._lists_in(exchange, x.device)
        choco_step(
            x,
            step.saved,
            step.g,
            step.momentum,
            exchange.states["x_hat"],
            lists.neighbors,
            lists.weights,
            *buckets_of(exchange, q),
            step.lr,
            step.weight_decay,
            step.beta,
            step.mu,
            self._gamma_on(x.device),
            step.norm,
            step.kind,
            step.nesterov,
            step.maximize,
            self.choco.order == ORDERS[1],
            q.most,
            *self._random(exchange),
            exchange.squares,
        )

    def _random(self, exchange: Exchange) -> tuple[int, torch.Tensor, int]:
        """Seed, step and first agent of an exchange's draws, as ops take them."""
        return exchange.seed, exchange.number, self.first_agent

    def _mix_once(self, x: torch.Tensor, now: Exchange) -> torch.Tensor:
        if self.choco.order == ORDERS[0]:
            return super()._mix_once(x, now)
        mixed = self.pulled(x, now)
        self.publish(mixed, now)
        return mixed

    def publish(self, x: torch.Tensor, exchange: Exchange) -> None:
        """Send Q(x - x_hat) and add it to the public copies."""
        self._move_copies(exchange, self._encoded(x, exchange))

    def _count(self, exchange: Exchange, each: int) -> None:
        """Messages of so many bytes went to all neighbors; one that could not be reached gets a whole copy next."""
        if isinstance(self.schedule, Faulty) and exchange.meeting is not None:
            number, first = int(exchange.meeting.number), self.first_agent
            senders = range(first, first + (self.agents or 1))
            arrived, whole = self.schedule.deliveries(number, senders)
            exchange.nbytes += each * arrived
            exchange.count(whole)
        else:
            exchange.nbytes += each * self.messages

    def _encoded(
        self,
        x: torch.Tensor,
        exchange: Exchange,
        messages: torch.Tensor | None = None,
        step: LocalStep | None = None,
    ) -> Told:
        """What the agents here send of x - x_hat.

        Args:
            x: `[agents, columns]`, the models.
            exchange: whose copies they are compared with.
            messages: uint8 `[agents, bytes]`, what will be sent: codes are written there where they lie so.
            step: taken first, by one kernel with the rest; its models are `exchange.memory("h", ...)`.
        """
        compressor, quantizer = self.choco.compressor, fused(self.choco)
        with ranged("encode"):
            if quantizer is not None:
                told = self._quantized(x, exchange, quantizer, messages, step)
            else:
                difference = exchange.memory("difference", x.shape)
                torch.sub(x, exchange.states["x_hat"], out=difference)
                random = (exchange.seed, exchange.number)
                place: dict[str, Any] = {"layout": exchange.layout, "first_agent": self.first_agent}
                told = Told(compressor.encode(difference, *random, **place), difference=difference)
        self._count(exchange, told.payload.nbytes // len(x))
        return told

    def _quantized(
        self,
        x: torch.Tensor,
        exchange: Exchange,
        q: StochasticQuantizer,
        messages: torch.Tensor | None,
        step: LocalStep | None,
    ) -> Told:
        """`_encoded` in one kernel."""
        inside = None if messages is None else q.in_messages(messages, exchange.layout)
        payload = inside or q.blank(len(x), exchange.layout, x.device)
        codes, scales = payload.parts["codes"], payload.parts["scales"]
        squares = exchange.memory("squares", exchange.squares.shape, torch.float64)
        zero = x.new_zeros(())
        # (saved, g, momentum, h), rates, norm, kind and flags
        rows: tuple[torch.Tensor | None, ...] = (None,) * 4
        rates: tuple[object, ...] = (zero, zero, zero, None, 0, False, False)
        if step is not None:
            rows = (step.saved, step.g, step.momentum, exchange.memory("h", x.shape))
            rates = (step.lr, step.weight_decay, step.beta, step.norm, step.kind)
            rates += (step.nesterov, step.maximize)
        moves = not self._may_fail(x.device)
        choco_encode(
            x,
            *rows,
            exchange.states["x_hat"],
            *buckets_of(exchange, q),
            q.bits,
            *rates,
            moves,
            q.most,
            *self._random(exchange),
            codes,
            scales,
            payload.parts.get("signs"),
            squares,
        )
        models = x if rows[-1] is None else rows[-1]
        refuse_nonfinite(scales, lambda: models - exchange.states["x_hat"])
        return Told(payload, squares, None, inside is not None, moves)

    def _may_fail(self, device: torch.device) -> bool:
        """Whether an exchange may fail once its messages are encoded: on a CPU, refused as they are not finite."""
        return device.type == "cpu"

    def _move_copies(
        self, exchange: Exchange, told: Told, sent: Sequence[Payload] | None = None
    ) -> None:
        """Add what was sent to public copies: `sent` of all that are kept here, in the order of their rows."""
        compressor, copies = self.choco.compressor, exchange.halo_of("x_hat")

        def decode_to(rows: torch.Tensor) -> torch.Tensor:
            first = 0
            for payload in (told.payload,) if sent is None else sent:
                end = first + payload.shape[0]
                compressor.decode_add_(payload, rows[first:end])
                first = end
            return rows

        if not told.has_moved:
            if copies.dtype == torch.float32 and not self.choco.running_sum:
                decode_to(copies)
            else:
                value = decode_to(exchange.memory("value", copies.shape).zero_())
                self._add(value, copies, exchange)
        if told.squares is not None:
            exchange.squares.copy_(told.squares)
        elif told.difference is not None:
            # norms are summed without rows as wide as their float64 sums
            exchange.squares[:, 0] = row_norms(told.difference).double().square()
            compressor.decode_add_(told.payload, told.difference, -1.0)
            exchange.squares[:, 1] = row_norms(told.difference).double().square()

    def _add(self, value: torch.Tensor, copies: torch.Tensor, exchange: Exchange) -> None:
        """Add what all sent to public copies, and to the running sum of the neighbors'."""
        if self.choco.running_sum:
            lists = self.lists(copies.device)
            others = lists.weights.clone()
            others[:, 0].zero_()
            running = exchange.states["weighted_sum"]
            received = exchange.memory("received", running.shape)
            mix_neighbors(value, received, lists.neighbors, others)
            running.add_(received)
        if copies.dtype == torch.float32:
            copies.add_(value)
            return
        row = 0
        # every holder rounds by the owners' draws
        for first, count in runs(self.holds):
            part = slice(row, row + count)
            moved = copies[part].float() + value[part]
            keep(copies[part], moved, (exchange.seed, exchange.number, first), COPIES)
            row += count

    @property
    def holds(self) -> Sequence[int]:
        """Numbers of the agents whose public copies are here, in the order of their rows."""
        return range(self.first_agent, self.first_agent + (self.agents or 1))

    def copies(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        return exchange.halo_of("x_hat")

    def pulled(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        if self.choco.running_sum or self.choco.adaptive:
            return self._pull(exchange).add_(x)
        mixed = torch.empty_like(x)
        self._mix_copies(mixed, x, exchange)
        return mixed

    def _mix_copies(
        self, x: torch.Tensor, h: torch.Tensor, exchange: Exchange, step: LocalStep | None = None
    ) -> None:
        """x = h + gamma (W x_hat - x_hat), and quasi-global momentum where `step` has some."""
        lists, zero = self._lists_in(exchange, x.device), x.new_zeros(())
        saved, momentum, norm = None, None, None
        rates, random = (zero, zero), self._random(exchange)
        if step is not None:
            saved, momentum = step.saved, step.momentum if step.kind == QUASI_GLOBAL else None
            rates, norm, random = (step.lr, step.mu), step.norm, step.random
        copies, gamma = exchange.halo_of("x_hat"), self._gamma_on(x.device)
        lists_of = (lists.neighbors, lists.weights)
        choco_mix(x, saved, h, momentum, copies, *lists_of, *rates, gamma, norm, *random)

    def _gamma_on(self, device: torch.device) -> torch.Tensor:
        if device not in self._gammas:
            gamma = torch.tensor(self.consensus_step, dtype=torch.float32, device=device)
            self._gammas[device] = gamma
        return self._gammas[device]

    def _pull(self, exchange: Exchange) -> torch.Tensor:
        """gamma (W x_hat - x_hat), with AdaGossip's gamma where that was asked for."""
        copies, x_hat = exchange.halo_of("x_hat").float(), exchange.states["x_hat"]
        gamma = self._gamma_on(x_hat.device)
        lists = self._lists_in(exchange, x_hat.device)
        if self.choco.running_sum:
            pull = exchange.states["weighted_sum"] + (lists.weights[:, :1] - 1.0) * x_hat
        else:
            pull = torch.empty_like(x_hat, dtype=torch.float32)
            mix_neighbors(copies, pull, lists.neighbors, lists.weights)
            pull.sub_(x_hat)
        if not self.choco.adaptive:
            return pull.mul_(gamma)
        square = exchange.states["pull_square"]
        square.mul_(DECAY).addcmul_(pull, pull, value=1.0 - DECAY)
        # the running mean began at zero
        unbiased = square / (1.0 - DECAY ** (exchange.number.double() + 1.0)).float()
        return pull.mul_((gamma / (square_root(unbiased) + SMALL)).clamp(max=1.0))


def settle(step: LocalStep, aside: LocalStep) -> None:
    """Make the momentum that a step has moved aside its momentum."""
    if step.momentum is not None and aside.momentum is not None and aside is not step:
        step.momentum.copy_(aside.momentum)


def buckets_of(exchange: Exchange, q: StochasticQuantizer) -> tuple[torch.Tensor, int]:
    """The table of buckets as ops take it, and the size of the largest."""
    layout, device = exchange.layout, exchange.squares.device
    return table_of(layout, q.bucket, device), largest_of(layout, q.bucket)


def as_choco(compressor: Compressor | Choco | None) -> Choco:
    """What `compressor=` means; raises ValueError where it is none of its types."""
    if isinstance(compressor, Choco):
        return compressor
    return Choco(Identity() if compressor is None else compressor)


def check_copies(choco: Choco, dtype: torch.dtype) -> None:
    """Raise ValueError unless public copies may be kept as `dtype`: bfloat16 needs a step that is one kernel."""
    if dtype != torch.float32 and fused(choco) is None:
        raise ValueError(
            f"public copies as {dtype} need an unbiased StochasticQuantizer of at most {MOST_LEVELS} levels with "
            f'norm="max" and buckets of at most {MOST_ELEMENTS}, without running_sum and adaptive, got {choco}'
        )


def fused(choco: Choco) -> StochasticQuantizer | None:
    """The quantizer for which a whole step is one kernel; None where it takes several."""
    q = choco.compressor
    if type(q) is not StochasticQuantizer or choco.running_sum or choco.adaptive:
        return None
    has_small_buckets = q.bucket is not None and q.bucket <= MOST_ELEMENTS
    fits = has_small_buckets and q.norm == "max" and q.most <= MOST_LEVELS and not q.biased
    return q if fits else None
