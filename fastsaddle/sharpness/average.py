"""The mean loss over whole data, which all measures of sharpness look at."""

from torch import Tensor

from fastsaddle.sharpness.base import measure
from fastsaddle.sharpness.objective import Loss, MeanLoss, Model


@measure
def mean_loss(
    model: Model, loss: Loss, inputs: Tensor, targets: Tensor, batch_size: int = 500
) -> Tensor:
    """The mean loss over all samples, summed over batches in float64.

    Args:
        model: a module, which gives a float, or an `fs.AgentStack`, which gives float64 `[agents]` on the CPU.
        loss: called with the outputs and targets of a batch; returns a scalar, the mean over its samples.
        inputs: `[samples, ...]` on the model's device, the same for all agents.
        targets: `[samples, ...]`.
        batch_size: most samples in a batch.

    Raises:
        ValueError: batch_size is below 1, there are no samples, inputs and targets differ in length, the model has no
            parameters that require gradients, or the loss is not a scalar.

    Example:
        >>> import torch
        >>> from fastsaddle import sharpness
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> inputs, targets = torch.ones(10, 3), torch.zeros(10, 1)
        >>> sharpness.mean_loss(model, torch.nn.functional.mse_loss, inputs, targets)
        9.0
    """
    mean = MeanLoss.of(model, loss, inputs, targets, batch_size)
    return mean.measure(lambda part: part.values(part.x))
