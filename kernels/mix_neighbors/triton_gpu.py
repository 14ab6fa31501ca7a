"""mix_neighbors in Triton: mixing without momentum is mix_update's kernel with another output."""

import torch

from fastsaddle.kernels._shared.step.gossip_triton import launch_mix_update


def launch(
    x: torch.Tensor, out: torch.Tensor, neighbors: torch.Tensor, weights: torch.Tensor
) -> None:
    # without momentum the kernel reads neither rate nor coefficient: any float tensor stands for them
    launch_mix_update(out, None, x, None, neighbors, weights, weights, weights, None, 0, weights, 0)
