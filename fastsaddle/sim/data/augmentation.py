"""Random crops and flips of every agent's batch, drawn without a random state: step t needs (seed, i, t).

The customary augmentation of CIFAR images: pad by 4 black pixels, crop to the old size at random,
flip horizontally with probability 1/2 (He, Zhang, Ren, Sun 2016, arXiv:1512.03385, section 4.2).
"""

import numpy as np
import torch
from torch import Tensor

from fastsaddle.sim.run.devices import sent

# keeps these draws apart from those of the batches, which use the same seed
AUGMENTATION_STREAM = 0x63726F70
SAMPLES_A_BLOCK = 2048
KINDS = ("crop", "flip", "crop-flip")


class Augmentation:
    """How batches are cropped and flipped, drawn for the op `gather_batch` on the device that trains.

    `kind` is `crop`, `flip` or `crop-flip`. Images are padded by `pad` black pixels on all sides
    before a crop of their own size is taken; a flip follows. Offsets and flips are drawn for blocks
    of steps, block b of agent i from `numpy.random.default_rng([seed, AUGMENTATION_STREAM, i, b])`:
    nothing has to be stored to go on at any step, more agents change no other agent's images, and
    each kind draws the same numbers. Agents are numbered from `first_agent` on.

    Raises ValueError for an unknown kind, a negative pad, and counts < 1.
    """

    def __init__(
        self,
        kind: str,
        *,
        seed: int,
        batch_size: int,
        agents: int,
        pad: int = 4,
        device: torch.device | str = "cpu",
        first_agent: int = 0,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"augmentation must be one of {', '.join(KINDS)}, got {kind!r}")
        if pad < 0:
            raise ValueError(f"pad must be >= 0, got {pad}")
        if batch_size < 1 or agents < 1:
            raise ValueError(f"batch_size and agents must be >= 1, got {batch_size} and {agents}")
        self.kind = kind
        self.pad = pad
        self.seed = seed
        self.batch_size = batch_size
        self.agents, self.first_agent = agents, first_agent
        self.device = torch.device(device)
        self._steps_a_block = max(1, SAMPLES_A_BLOCK // batch_size)
        self._number = -1
        self._offsets = self._flips = torch.empty(0)

    def draws(self, step: int) -> tuple[Tensor, Tensor]:
        """Of one step, counted from 0: how far crops lie down and right of their images, and flips.

        They are `[agents, batch, 2]` int16 and `[agents, batch]` bool.
        """
        number, offset = divmod(step, self._steps_a_block)
        if number != self._number:
            drawn = [self._draw(agent, number) for agent in range(self.agents)]
            offsets, flips = (np.stack(kind, axis=1) for kind in zip(*drawn, strict=True))
            self._offsets, self._flips = sent(offsets, self.device), sent(flips, self.device)
            self._number = number
        return self._offsets[offset], self._flips[offset]

    def _draw(self, agent: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(
            [self.seed, AUGMENTATION_STREAM, self.first_agent + agent, number]
        )
        shape = (self._steps_a_block, self.batch_size)
        offsets = random.integers(0, 2 * self.pad, (*shape, 2), np.int16, endpoint=True)
        flips = random.integers(0, 1, shape, np.bool_, endpoint=True)
        offsets -= self.pad
        if self.kind == "flip":
            offsets[:] = 0
        if self.kind == "crop":
            flips[:] = False
        return offsets, flips
