"""
SAM in Hugging Face's Trainer
=============================

You will learn how to train a vision transformer with SAM in the ``Trainer`` of transformers, which cannot take two
gradients a step. ``MomentumSAM`` needs one only: it moves along the momentum instead of the gradient.
"""

# %%
# A small transformer and its data
# --------------------------------
#
# The model is made from a configuration, with random weights. Each image of 8 x 8 pixels is 16 patches.

import tempfile
import time

import matplotlib.pyplot as plt
import torch
import transformers

import fastsaddle as fs

torch.set_num_threads(1)  # a model as small as this gains nothing from more
data = fs.sim.data.digits()
EPOCHS = 12


def samples(inputs, labels):
    return [{"pixel_values": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]


train = samples(data.train_inputs, data.train_labels)
test = samples(data.test_inputs, data.test_labels)


def transformer():
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.2,  # the default suits wider models
    )
    return transformers.ViTForImageClassification(config)


def accuracy(prediction):
    right = prediction.predictions.argmax(-1) == prediction.label_ids
    return {"accuracy": 100 * right.mean()}


# %%
# Two optimizers
# --------------
#
# Methods with one gradient a step, such as SGD with momentum, go into ``Trainer`` as they are. For ``MomentumSAM``
# there is a callback as well: it puts the parameters back to the model wherever the Trainer saves, and when training
# ends.

optimizers = {
    "momentum": lambda p: fs.Optimizer(p, lr=0.05, rule=fs.rules.Momentum("local")),
    "with MomentumSAM": lambda p: fs.Optimizer(
        p,
        lr=0.05,
        gradient=fs.gradients.SAM(rho=0.2, sam=fs.MomentumSAM()),
        rule=fs.rules.Momentum("local"),
    ),
}

# %%
# Training
# --------

curves = {}
for name, make in optimizers.items():
    model = transformer()
    optimizer = make(model.parameters())
    steps = EPOCHS * -(-len(train) // 64)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, 20, steps)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=64,
                per_device_eval_batch_size=360,
                num_train_epochs=EPOCHS,
                eval_strategy="epoch",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=train,
            eval_dataset=test,
            compute_metrics=accuracy,
            optimizers=(optimizer, schedule),
            callbacks=[fs.integrations.MomentumSAMCallback()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    seconds = time.process_time() - began
    rows = [row for row in trainer.state.log_history if "eval_accuracy" in row]
    curves[name] = [row["eval_accuracy"] for row in rows]
    print(f"{name:16} test accuracy {curves[name][-1]:.1f} %, {seconds:.1f} s of CPU time")

# %%
figure, axes = plt.subplots(layout="constrained")
for name, curve in curves.items():
    axes.plot(range(1, EPOCHS + 1), curve, "o-", label=name)
axes.set(xlabel="epoch", ylabel="test accuracy (%)")
axes.set_title("A small vision transformer in the Trainer")
axes.legend()
plt.show()

# %%
# Both learn. The evaluation after each epoch looks at the model, never at the point that MomentumSAM moved it to.
#
# What was seen
# -------------
#
# MomentumSAM ran in a trainer that knows nothing of SAM, with one gradient a step and so at about the price of the
# optimizer without it. On clean and easy data as here, SAM's gain is small; :doc:`sam_drop_in` has data where it is
# not. Saving, checkpoints and ``optimizer.eval()`` are explained in :doc:`/training-loops`.
