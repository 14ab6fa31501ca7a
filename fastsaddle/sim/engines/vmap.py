"""All agents at once by torch.vmap, which makes one grouped convolution of theirs."""

from fastsaddle.sim.engines._mapped import Mapped


class Vmap(Mapped):
    """The network mapped over agents as it is."""
