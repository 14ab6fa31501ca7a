"""Decentralized, sharpness-aware deep learning: many agents, one graph, fused kernels, a drop-in optimizer."""

from fastsaddle import _checkout  # noqa: F401  (finds the rooms where the link is lost)
