"""What all feature skews share: the check of their input and an agent's generator."""

import numpy as np
import torch
from torch import Tensor

# keeps these draws apart from those of the batches, which use the same seed
SKEW_STREAM = 0x736B6577


def check_images(images: Tensor, agent: int, agents: int) -> None:
    """Raise ValueError unless these are one agent's float images `[m, c, h, w]`."""
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(
            "a feature skew needs float images [samples, channels, height, width], "
            f"got {str(images.dtype).removeprefix('torch.')} {list(images.shape)}: "
            "choose no feature skew for this data set"
        )
    if not 0 <= agent < agents:
        raise ValueError(f"agent must be between 0 and {agents - 1}, got {agent}")


def generator(seed: int, agent: int) -> np.random.Generator:
    """The random numbers of one agent's skew, the same however many other agents there are."""
    return np.random.default_rng([seed, SKEW_STREAM, agent])


def per_channel(values: np.ndarray, images: Tensor) -> Tensor:
    """`[c]` as `[c, 1, 1]`, of the images' dtype and device."""
    return torch.from_numpy(values).to(images.device, images.dtype)[:, None, None]
