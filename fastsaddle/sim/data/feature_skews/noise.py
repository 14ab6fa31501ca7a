"""Each agent's images with Gaussian noise, the more the higher its number."""

import math

import numpy as np
import torch
from torch import Tensor

from fastsaddle.sim.data.feature_skews._base import check_images, generator


def noise(images: Tensor, agent: int, agents: int, seed: int, deviation: float = 0.5) -> Tensor:
    """One agent's images `[m, c, h, w]` plus Gaussian noise, a new tensor.

    The noise's standard deviation, in units of the normalized values, grows linearly from 0 at
    agent 0 to `deviation` at the last one. Each sample's noise is drawn once, from (seed, agent),
    and stays with it. This is the noise-based feature imbalance of Li, Diao, Chen, He 2021
    (NIID-Bench, arXiv:2102.02079), graded by agent / (agents - 1) as in its public code.

    Raises ValueError for inputs that are not images and for a negative or infinite deviation.
    """
    check_images(images, agent, agents)
    if not (deviation >= 0 and math.isfinite(deviation)):
        raise ValueError(f"deviation must be finite and >= 0, got {deviation}")
    drawn = generator(seed, agent).standard_normal(images.shape, dtype=np.float32)
    drawn *= np.float32(deviation * agent / max(agents - 1, 1))
    return images + torch.from_numpy(drawn).to(images.device, images.dtype)
