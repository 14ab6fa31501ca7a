"""All agents at once by torch.vmap, their convolutions as products over patches that are laid out."""

from fastsaddle.sim.engines._mapped import Mapped
from fastsaddle.sim.engines._patch_convolution import Stacked, StackedConvolution


class Unfold(Mapped):
    """The network mapped over agents; patches take kernel height x width as much memory as the inputs."""

    def convolution(self) -> Stacked:
        return StackedConvolution.apply
