"""The Trainer of transformers knows no closures: QGM and MomentumSAM run in it with the bits of the plain loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainingArguments

import fastsaddle as fs
from tests.integrations.plain_loops import (
    BATCH,
    STEPS,
    Network,
    Plain,
    loader,
    momentum_sam,
    qgm,
    saddle,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # of memory that is not pinned without a GPU
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class WithLoss(Network):
    """What the Trainer takes for a model."""

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> Any:
        logits = self.layers(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class InOrder(Trainer):
    def _get_train_sampler(self, *arguments: Any) -> Any:
        return SequentialSampler(self.train_dataset)


def samples(seed: int, batches: int) -> list[dict[str, torch.Tensor]]:
    return [{"x": x, "labels": y} for x, y in loader(seed, batches).dataset]


def trainer(
    make: Any, seed: int, folder: Path, data: int, batches: int = STEPS, **options: Any
) -> tuple[Trainer, WithLoss, Any]:
    """On `batches` batches an epoch, without a schedule."""
    model = WithLoss(seed)
    optimizer = make(model.parameters())
    settings = {"max_grad_norm": 0.5, "num_train_epochs": 1, "save_strategy": "no", **options}
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
        **settings,
    )
    made = InOrder(
        model=model,
        args=arguments,
        train_dataset=samples(data, batches),
        eval_dataset=samples(data + 1, 2),
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: 1.0)),
        callbacks=[fs.integrations.MomentumSAMCallback()],
    )
    made.remove_callback(PrinterCallback)
    return made, model, optimizer


METHODS = {"qgm": qgm, "momentum-sam": momentum_sam}
each = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("bf16", [False, True])
@each
def test_training(make: Any, bf16: bool, window: int, seed: int, tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": window, "bf16": bf16}
    made, model, optimizer = trainer(make, seed, tmp_path, seed, window * STEPS, **options)
    made.train()
    half = torch.bfloat16 if bf16 else None
    twin = Plain(make, seed, 0.5, half).run([*loader(seed, window * STEPS)], window)
    twin.check(model, optimizer)


@each
def test_saving_evaluating_and_resuming(make: Any, seed: int, tmp_path: Path) -> None:
    """Ten steps an epoch, saved after each; another Trainer takes the second epoch, and evaluates."""
    options: dict[str, Any] = {"save_strategy": "epoch"}
    first, _, _ = trainer(make, seed, tmp_path, seed, 10, **options)
    first.train()
    batches = [*loader(seed, 10)]
    halfway = Plain(make, seed, 0.5).run(batches).model.state_dict()
    saved = load_file(tmp_path / "checkpoint-10" / "model.safetensors")
    assert saved.keys() == halfway.keys()
    assert all(torch.equal(saved[name], value) for name, value in halfway.items())

    options |= {"num_train_epochs": 2, "eval_strategy": "epoch"}
    other, model, optimizer = trainer(make, seed + 1, tmp_path / "b", seed, 10, **options)
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    Plain(make, seed, 0.5).run(batches * 2).check(model, optimizer)
    tested = WithLoss(seed)
    tested.load_state_dict(model.state_dict())
    expected = [tested.eval()(x, y)["loss"].item() for x, y in loader(seed + 1, 2)]
    told = [row["eval_loss"] for row in other.state.log_history if "eval_loss" in row]
    assert told[-1] == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_two_gradients_are_more_than_it_takes(seed: int, tmp_path: Path) -> None:
    made, _, _ = trainer(saddle, seed, tmp_path, seed)
    with pytest.raises(RuntimeError, match="needs two gradients a step"):
        made.train()
