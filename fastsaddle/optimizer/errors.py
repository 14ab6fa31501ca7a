"""What a step refuses."""

from fastsaddle.compressors._wire import NonFiniteError


class NonFiniteGradientError(NonFiniteError):
    """A gradient holds NaN or infinity; parameters and state are as they were before the step.

    `nonfinite="skip"` lets such agents skip their step instead.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> p = torch.nn.Parameter(torch.zeros(4, 3))
        >>> optimizer = fs.DSGD([p], lr=0.1, topology="ring")
        >>> p.grad[2, 0] = torch.nan
        >>> try:
        ...     optimizer.step()
        ... except fs.NonFiniteGradientError as error:
        ...     print(error)
        gradients must be finite, got NaN or infinity for agents [2]; ...
    """
