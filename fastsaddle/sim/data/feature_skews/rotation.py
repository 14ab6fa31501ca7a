"""Each agent's images turned by an angle of its own."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fastsaddle.sim.data.feature_skews._base import check_images


def rotation(images: Tensor, agent: int, agents: int, degrees: float = 180.0) -> Tensor:
    """One agent's images `[m, c, h, w]` turned counterclockwise about their center, a new tensor.

    The angles of the agents are the centers of `agents` equal parts of [-degrees/2, degrees/2]:
    `degrees * ((agent + 1/2) / agents - 1/2)`, so they are evenly spaced, no two agree even for
    360 degrees, and a single agent's images are not turned. Pixels are interpolated bilinearly and
    those from outside the image repeat its edge. Computed on the CPU for the same bits everywhere.

    Raises ValueError for inputs that are not images and for degrees outside [0, 360].
    """
    check_images(images, agent, agents)
    if not 0 <= degrees <= 360:
        raise ValueError(f"degrees must be in [0, 360], got {degrees}")
    angle = math.radians(degrees * ((agent + 0.5) / agents - 0.5))
    height, width = images.shape[2:]
    cosine, sine = math.cos(angle), math.sin(angle)
    # coordinates run from -1 to 1 along either side, however long it is
    turn = [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]
    matrix = torch.tensor([turn], dtype=images.dtype)
    grid = F.affine_grid(matrix, [1, 1, height, width], align_corners=False)
    grid = grid.expand(len(images), -1, -1, -1)
    turned = F.grid_sample(images.cpu(), grid, padding_mode="border", align_corners=False)
    return turned.to(images.device)
