"""What a step refuses."""

from fastsaddle.compressors._wire import NonFiniteError


class NonFiniteGradientError(NonFiniteError):
    """A gradient holds NaN or infinity; parameters and state are as they were before the step."""
