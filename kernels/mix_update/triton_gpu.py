"""mix_update in Triton: one program takes 1024 columns of one agent; its neighbors' slices are in L2."""

from fastsaddle.kernels._shared.step.gossip_triton import launch_mix_update as launch

__all__ = ["launch"]
