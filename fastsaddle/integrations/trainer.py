"""For the Trainer of Hugging Face's transformers."""

from typing import Any

from transformers import TrainerCallback


class MomentumSAMCallback(TrainerCallback):
    """Lets the parameters hold the model whenever the Trainer may save it: `callbacks=[MomentumSAMCallback()]`.

    The Trainer itself calls `optimizer.train()` before each batch and `optimizer.eval()` before it evaluates, but not
    before it saves. Other optimizers than those with MomentumSAM are left alone.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        others["optimizer"].eval()
