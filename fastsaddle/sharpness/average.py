"""The mean loss over whole data, which all measures of sharpness look at."""

from torch import Tensor

from fastsaddle.sharpness.base import measure
from fastsaddle.sharpness.objective import Loss, MeanLoss, Model


@measure
def mean_loss(
    model: Model, loss: Loss, inputs: Tensor, targets: Tensor, batch_size: int = 500
) -> Tensor:
    """The mean over all samples, summed over batches in float64.

    Args:
        model: any module (the result is a float), or an AgentStack (float64 `[agents]`, on the CPU).
        loss: takes outputs and targets of a batch; the mean over its samples, a scalar.
        inputs: `[samples, ...]`, on the model's device, for all agents.
        targets: `[samples, ...]`.
        batch_size: samples at once.

    Raises:
        ValueError: a batch_size below 1, no samples, inputs and targets of different lengths, a model without
            parameters that require gradients, or a loss that is not a scalar.
    """
    mean = MeanLoss.of(model, loss, inputs, targets, batch_size)
    return mean.measure(lambda part: part.values(part.x))
