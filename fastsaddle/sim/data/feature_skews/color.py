"""Each agent's images with a contrast and brightness of its own in every channel."""

from torch import Tensor

from fastsaddle.sim.data.feature_skews._base import check_images, generator, per_channel


def color(images: Tensor, agent: int, agents: int, seed: int, strength: float = 0.3) -> Tensor:
    """One agent's images `[m, c, h, w]` times a gain plus a shift for each channel, a new tensor.

    Gains are uniform in [1 - strength, 1 + strength], shifts in [-strength, strength], in units of
    the normalized values; both come from (seed, agent) only.

    Raises ValueError for inputs that are not images and for a strength outside [0, 1).
    """
    check_images(images, agent, agents)
    if not 0 <= strength < 1:
        raise ValueError(f"strength must be in [0, 1), got {strength}")
    gain, shift = generator(seed, agent).uniform(-strength, strength, (2, images.shape[1]))
    return images * per_channel(1 + gain, images) + per_channel(shift, images)
