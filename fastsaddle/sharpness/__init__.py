"""How sharp the minimum is that a model lies in, or every agent of a stack.

All measures look at the mean loss over whole data: `loss(outputs, targets)` is a scalar that averages over its
samples, as `torch.nn.functional.cross_entropy` does, and runs on batches of at most `batch_size` samples, each counted
by its size. Parameters that need no gradient stay fixed. Models run in evaluation mode and are left as they were to
the bit, also when an error falls: they are called with other tensors in place of their parameters and buffers.

`model` is a module, which gives a float, or an `AgentStack`, which gives a float64 tensor `[agents]` on the CPU: the
measure of every agent's own model on the same data, as each alone would give it, up to rounding. Random draws are the
same for all agents. Agents are mapped, up to 64 at once; one after the other run networks with recurrent layers, which
cannot be mapped, and on a CPU those with convolutions or embeddings, which are slower mapped. Where a network or loss
of your own cannot be mapped (`torch.vmap` says why), measure each `stack.agent(i)`.
"""

from fastsaddle.sharpness.average import mean_loss
from fastsaddle.sharpness.hessian import Trace, top_eigenvalue, trace
from fastsaddle.sharpness.sam import sam_sharpness
from fastsaddle.sharpness.surface import loss_surface
from fastsaddle.sharpness.valley import MeanValley, mean_valley

__all__ = [
    "MeanValley",
    "Trace",
    "loss_surface",
    "mean_loss",
    "mean_valley",
    "sam_sharpness",
    "top_eigenvalue",
    "trace",
]
