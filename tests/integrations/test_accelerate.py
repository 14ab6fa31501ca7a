"""Loops with Accelerate have the bits of the plain one, and what it saves is whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import load_file
from torch.nn import functional as F

from tests.integrations.plain_loops import STEPS, Network, Plain, loader, momentum_sam, qgm, saddle

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Accelerate keeps its settings for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


class Loop:
    """As a user writes it: windows of batches, in two phases where the method takes two gradients."""

    def __init__(
        self, make: Any, seed: int, clip: float | None = None, batches: int = STEPS, **options: Any
    ) -> None:
        self.accelerator = Accelerator(cpu=True, **options)
        inner = Network(seed)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            inner, make(inner.parameters()), loader(seed, batches)
        )
        self.inner, self.clip, self.held = inner, clip, []

    def backward(self, batch: Any) -> None:
        x, y = batch
        self.accelerator.backward(F.cross_entropy(self.model(x), y))

    def clip_all(self) -> None:
        if self.clip is not None and self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip)

    def run(self) -> "Loop":
        own = self.optimizer.optimizer
        self.optimizer.train()
        for batch in self.loader:
            with self.accelerator.accumulate(self.model):
                self.held.append(batch)
                self.backward(batch)
                self.clip_all()
                if self.accelerator.sync_gradients:
                    if own.passes == 2:
                        own.perturb(zero_grad=True)
                        for each in self.held:
                            self.backward(each)
                        self.clip_all()
                    self.held.clear()
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.optimizer.eval()
        return self


METHODS = {"qgm": qgm, "saddle": saddle, "momentum-sam": momentum_sam}
each = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("window", [1, 2])
@each
def test_two_phases(make: Any, window: int, clip: float | None, precision: str, seed: int) -> None:
    options = {"gradient_accumulation_steps": window, "mixed_precision": precision}
    loop = Loop(make, seed, clip, window * STEPS, **options).run()
    half = torch.bfloat16 if precision == "bf16" else None
    twin = Plain(make, seed, clip, half).run([*loader(seed, window * STEPS)], window)
    twin.check(loop.inner, loop.optimizer.optimizer)


@each
def test_closures(make: Any, seed: int) -> None:
    loop = Loop(make, seed)

    def closure(batch: Any) -> None:
        loop.optimizer.zero_grad()
        loop.backward(batch)

    for batch in loop.loader:
        loop.optimizer.step(lambda b=batch: closure(b))
    Plain(make, seed).run([*loader(seed)]).check(loop.inner, loop.optimizer.optimizer)


@each
def test_a_saved_model_is_whole(make: Any, seed: int, tmp_path: Path) -> None:
    loop = Loop(make, seed).run()
    loop.accelerator.save_model(loop.model, str(tmp_path))
    saved = load_file(tmp_path / "model.safetensors")
    expected = Plain(make, seed).run([*loader(seed)]).model.state_dict()
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], value) for name, value in expected.items())


@each
def test_resuming(make: Any, seed: int, tmp_path: Path) -> None:
    first = Loop(make, seed, batches=10).run()
    first.accelerator.save_state(str(tmp_path))
    other = Loop(make, seed + 1, batches=10)
    other.loader = first.loader
    other.accelerator.load_state(str(tmp_path))
    other.run()
    batches = [*loader(seed, 10)]
    Plain(make, seed).run(batches * 2).check(other.inner, other.optimizer.optimizer)
