"""For the Trainer of Hugging Face's transformers."""

from typing import Any

from transformers import TrainerCallback


class MomentumSAMCallback(TrainerCallback):
    """For the Trainer of transformers: lets the parameters hold the model whenever it may be saved.

    The Trainer calls `optimizer.train()` before each batch and `optimizer.eval()` before it evaluates, but not before
    it saves; this callback calls `optimizer.eval()` after each step. It changes nothing for optimizers without
    `fs.MomentumSAM`. Pass it as `callbacks=[MomentumSAMCallback()]`.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Called by the Trainer after each step: `optimizer.eval()`.

        Args:
            args: the Trainer's arguments; not used.
            state: the Trainer's state; not used.
            control: the Trainer's control; not used.
            others: what else the Trainer passes, by name; `optimizer` is used.
        """
        others["optimizer"].eval()
