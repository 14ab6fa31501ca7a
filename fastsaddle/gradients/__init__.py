"""Where gradients are taken: at the model, at its perturbation, at the neighbors' models, at the mixed model."""

from fastsaddle.gradients.base import Found, Gradient, Plain
from fastsaddle.gradients.cross import Cross
from fastsaddle.gradients.mixed import Mixed
from fastsaddle.gradients.sam import SAM

__all__ = ["SAM", "Cross", "Found", "Gradient", "Mixed", "Plain"]
