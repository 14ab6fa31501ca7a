"""SAM in Hugging Face's Trainer, which knows no closures: MomentumSAM takes one gradient a step."""

import tempfile
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments, get_cosine_schedule_with_warmup

import fastsaddle as fs


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        logits = self.layers(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


torch.manual_seed(0)
samples = [{"x": x, "labels": x[:3].argmax()} for x in torch.randn(6400, 8)]
model = Classifier()
optimizer = fs.QSADDLe(model.parameters(), lr=0.1, rho=0.5, sam=fs.MomentumSAM())
with tempfile.TemporaryDirectory() as folder:
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=64,
            num_train_epochs=3,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=samples,
        eval_dataset=samples[:640],
        optimizers=(optimizer, get_cosine_schedule_with_warmup(optimizer, 10, 300)),
        # checkpoints then hold the model, not its perturbation
        callbacks=[fs.integrations.MomentumSAMCallback()],
    )
    trainer.train()
    print(trainer.evaluate()["eval_loss"])
