"""Steps whose messages travel while gradients are taken, beside steps that wait for them."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from over_ranks.turns import Turn, by_turns
from over_ranks.work import Nothing

import fastsaddle as fs
from fastsaddle.ranks import Placement, TorchTransport
from fastsaddle.ranks.transport import Pending

Buffers = Mapping[int, torch.Tensor]
WIDTH = 1_000
LR, GAMMA = 0.01, 0.4
METHODS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "gradient tracking": (fs.GradientTracking, {}),
    "NGM": (fs.NGM, {}),
    "QGM, 8 bits, mix-then-compress": (
        fs.QGM,
        {
            "compressor": fs.Choco(fs.compressors.StochasticQuantizer(8), "mix-then-compress"),
            "consensus_step": GAMMA,
        },
    ),
}


class Link(TorchTransport):
    """A link of so many bytes a second in each direction, emulated: messages arrive no earlier than that lets them.

    Args:
        rate: bytes a second; None is loopback as it is.

    Attributes:
        exchanges: buffers of all exchanges since it was emptied, as `exchange` takes them.
    """

    def __init__(self, rate: float | None) -> None:
        super().__init__()
        self._rate = rate
        self.exchanges: list[tuple[Buffers, Buffers]] = []

    def exchange(self, sends: Buffers, receives: Buffers) -> Pending:
        self.exchanges.append((sends, receives))
        nbytes = max(sum(b.nbytes for b in way.values()) for way in (sends, receives))
        needs = 0.0 if self._rate is None else nbytes / self._rate
        return Late(super().exchange(sends, receives), time.perf_counter() + needs)


class Late:
    """Messages that have arrived at `end`, in seconds of the clock, at the earliest."""

    def __init__(self, pending: Pending, end: float) -> None:
        self._pending, self._end = pending, end

    def wait(self) -> None:
        self._pending.wait()
        time.sleep(max(0.0, self._end - time.perf_counter()))


def steps(
    name: str, batch: int, megabits: float | None, turns: int, calls: int
) -> dict[str, list[Turn]]:
    """Whole steps of an agent a rank on a ring, with overlap ("auto") and without ("off"), and their two parts.

    `compute` is the step without its messages, `exchange` are its messages alone. A model is a layer of
    1,000 x 1,000 parameters.

    Args:
        name: of `METHODS`.
        batch: samples of a gradient, which sets how long it takes.
        megabits: a second, of the link; None is loopback as it is.
        turns, calls: as in `by_turns`.
    """
    rate = None if megabits is None else megabits * 1e6 / 8
    off, auto = (Placement((1,) * dist.get_world_size(), Link(rate), o) for o in ("off", "auto"))
    ways = {here.overlap: stepping(name, batch, here)[0] for here in (off, auto)}
    ways["compute"], without = stepping(name, batch, off)
    wire = off.transport
    assert isinstance(wire, Link)
    wire.exchanges.clear()
    ways["off"]()
    sent = [*wire.exchanges]
    communicator: Any = without.communicator
    communicator.peers = Nothing(off, communicator.plan.sends, communicator.plan.receives)

    def exchange() -> None:
        for buffers in sent:
            wire.exchange(*buffers).wait()

    def begin() -> None:
        # what one way has begun must not arrive in another's time
        auto.finish()
        dist.barrier()

    return by_turns({**ways, "exchange": exchange}, turns, calls, begin)


def stepping(name: str, batch: int, here: Placement) -> tuple[Callable[[], object], fs.Optimizer]:
    """A step on a batch of its own, and its optimizer."""
    method, options = METHODS[name]
    model = torch.nn.Linear(WIDTH, WIDTH)
    optimizer = method(model.parameters(), lr=LR, topology="ring", placement=here, **options)
    inputs = torch.randn(batch, WIDTH)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        return loss

    return lambda: optimizer.step(closure), optimizer
