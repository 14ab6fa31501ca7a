"""Lightning's loops have the bits of the plain one."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.integrations.plain_loops import STEPS, Network, Plain, loader, momentum_sam, qgm, saddle

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # of the number of workers, of precision plugins and the like
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Automatic(L.LightningModule):
    def __init__(self, make: Any, seed: int) -> None:
        super().__init__()
        self.model, self.make = Network(seed), make

    def configure_optimizers(self) -> Any:
        self.own = self.make(self.model.parameters())
        return self.own

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def training_step(self, batch: Any, index: int) -> Any:
        return self.loss(batch)


class ByHand(Automatic):
    """Two phases, on windows of batches."""

    def __init__(self, make: Any, seed: int, window: int = 1, clip: float | None = None) -> None:
        super().__init__(make, seed)
        self.automatic_optimization = False
        self.window, self.clip, self.held = window, clip, []

    def backward_all(self) -> None:
        for batch in self.held:
            self.manual_backward(self.loss(batch) / self.window)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)

    def training_step(self, batch: Any, index: int) -> None:
        self.held.append(batch)
        if len(self.held) < self.window:
            return
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.backward_all()
        if optimizer.passes == 2:
            optimizer.perturb(zero_grad=True)
            self.backward_all()
        optimizer.step()
        self.held.clear()


def trainer(tmp_path: Path, **options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        **{"max_epochs": 1, **options},
    )


METHODS = {"qgm": qgm, "saddle": saddle, "momentum-sam": momentum_sam}
each = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


@pytest.mark.parametrize("precision", [None, "bf16-mixed"])
@pytest.mark.parametrize("clip", [None, 0.5])
@each
def test_automatic(
    make: Any, clip: float | None, precision: Any, seed: int, tmp_path: Path
) -> None:
    module = Automatic(make, seed)
    trainer(tmp_path, gradient_clip_val=clip, precision=precision).fit(module, loader(seed))
    half = torch.bfloat16 if precision else None
    Plain(make, seed, clip, half).run([*loader(seed)]).check(module.model, module.own)


@pytest.mark.parametrize("precision", [None, "bf16-mixed"])
@pytest.mark.parametrize(("window", "clip"), [(1, None), (2, 0.5)])
@pytest.mark.parametrize("make", [qgm, saddle])
def test_by_hand(
    make: Any, window: int, clip: float | None, precision: Any, seed: int, tmp_path: Path
) -> None:
    module, batches = ByHand(make, seed, window, clip), loader(seed, window * STEPS)
    trainer(tmp_path, precision=precision).fit(module, batches)
    half = torch.bfloat16 if precision else None
    Plain(make, seed, clip, half).run([*batches], window).check(module.model, module.own)


def test_accumulation(seed: int, tmp_path: Path) -> None:
    module, batches = Automatic(qgm, seed), loader(seed, 2 * STEPS)
    trainer(tmp_path, accumulate_grad_batches=2, gradient_clip_val=0.5).fit(module, batches)
    Plain(qgm, seed, 0.5).run([*batches], 2).check(module.model, module.own)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("make", [saddle, momentum_sam])
def test_accumulation_is_refused_where_it_would_be_wrong(
    make: Any, clip: float | None, seed: int, tmp_path: Path
) -> None:
    """Lightning's closure zeroes gradients at the first of several batches alone."""
    module = Automatic(make, seed)
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": clip}
    with pytest.raises(RuntimeError, match="accumulate_grad_batches"):
        trainer(tmp_path, **options).fit(module, loader(seed))
    for p, q in zip(module.model.parameters(), Network(seed).parameters(), strict=True):
        assert torch.equal(p, q)


def test_accumulation_at_the_perturbed_model(seed: int, tmp_path: Path) -> None:
    """MomentumSAM in `train()` takes the gradients of all batches there."""

    class Ahead(Automatic):
        def on_train_batch_start(self, batch: Any, index: int) -> None:
            self.optimizers().train()

        def on_train_end(self) -> None:
            self.optimizers().eval()

    module, batches = Ahead(momentum_sam, seed), loader(seed, 2 * STEPS)
    trainer(tmp_path, accumulate_grad_batches=2).fit(module, batches)
    Plain(momentum_sam, seed).run([*batches], 2).check(module.model, module.own)


def test_a_step_by_hand_lacks_its_first_pass(seed: int, tmp_path: Path) -> None:
    """Lightning passes a closure that does nothing where there is none: it must not pass for a gradient."""

    class Hasty(ByHand):
        def training_step(self, batch: Any, index: int) -> None:
            self.manual_backward(self.loss(batch))
            self.optimizers().step()

    module = Hasty(saddle, seed)
    with pytest.raises(RuntimeError, match="gradients must be zeroed"):
        trainer(tmp_path).fit(module, loader(seed))


@each
def test_resuming(make: Any, seed: int, tmp_path: Path) -> None:
    """From a checkpoint between two epochs of ten batches."""
    first, file = Automatic(make, seed), tmp_path / "half.ckpt"
    half = trainer(tmp_path)
    half.fit(first, loader(seed, 10))
    half.save_checkpoint(file)
    module = Automatic(make, seed + 1)
    trainer(tmp_path, max_epochs=2).fit(module, loader(seed, 10), ckpt_path=file)
    batches = [*loader(seed, 10)]
    Plain(make, seed).run(batches * 2).check(module.model, module.own)


@pytest.mark.parametrize("make", [qgm, saddle])
def test_fabric(make: Any, seed: int) -> None:
    fabric = L.Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    inner = Network(seed)
    model, optimizer = fabric.setup(inner, make(inner.parameters()))
    for x, y in loader(seed):
        optimizer.zero_grad()
        fabric.backward(F.cross_entropy(model(x), y))
        if optimizer.passes == 2:
            optimizer.perturb(zero_grad=True)
            fabric.backward(F.cross_entropy(model(x), y))
        optimizer.step()
    Plain(make, seed).run([*loader(seed)]).check(inner, optimizer.optimizer)
