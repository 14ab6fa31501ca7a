"""Mini-batches of all agents without a random state: batch t of agent i needs (seed, i, t) only."""

import numpy as np
import torch
from torch import Tensor

from fastsaddle.sim.run.devices import sent

SAMPLES_A_DRAW = 4096
SAMPLES_A_BLOCK = 2048


class AgentBatches:
    """Mini-batches of all agents, as indices into the training set, `[agents, batch]` for every step.

    Agent i reads an endless stream of permutations of its own samples, `batch_size` at a time, so every sample comes
    once in each of its epochs, and a batch larger than the agent's part wraps into the next permutation. The stream is
    drawn 4,096 samples or a little more at a time, draw d from `numpy.random.default_rng([seed, i, d])`: nothing has to
    be stored to go on at any step, and more agents change no other agent's batches. Steps are prepared in blocks, which
    keeps the drawing and the copy to a GPU off most steps.

    Args:
        parts: for each agent the indices of its samples, as a partition gives them.
        batch_size: samples of each agent in a step, >= 1.
        seed: of the draws.
        device: where the indices are to lie.
        first_agent: the number of the first agent that `parts` are of.

    Raises:
        ValueError: an agent without samples, or a batch size < 1.

    Example:
        >>> import fastsaddle as fs
        >>> data = fs.sim.data.digits()
        >>> parts = fs.sim.data.dirichlet(data.train_labels.numpy(), agents=16, seed=0, alpha=0.1)
        >>> batches = fs.sim.data.AgentBatches(parts, batch_size=32, seed=0)
        >>> data.train_inputs[batches.at(0)].shape
        torch.Size([16, 32, 1, 8, 8])
    """

    def __init__(
        self,
        parts: list[np.ndarray],
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        first_agent: int = 0,
    ) -> None:
        empty = [i for i, part in enumerate(parts, first_agent) if len(part) == 0]
        if empty:
            raise ValueError(f"every agent needs at least one sample, agents {empty} have none")
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        self.parts, self.first_agent = parts, first_agent
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        self._steps_a_block = max(1, SAMPLES_A_BLOCK // batch_size)
        self._number = -1
        self._block = torch.empty(0)
        # each agent's last draw: the next block begins in it, mostly
        self._last: dict[int, tuple[int, np.ndarray]] = {}

    def at(self, step: int) -> Tensor:
        """The batches of one step.

        Args:
            step: counted from 0, in any order.

        Returns:
            Indices `[agents, batch]`, int64, on the device.
        """
        number, offset = divmod(step, self._steps_a_block)
        if number != self._number:
            self._block = sent(self._draw_block(number), self.device)
            self._number = number
        return self._block[offset]

    def _draw_block(self, number: int) -> np.ndarray:
        length = self._steps_a_block * self.batch_size
        streams = [self._stream(i, number * length, length) for i in range(len(self.parts))]
        shape = (len(self.parts), self._steps_a_block, self.batch_size)
        return np.ascontiguousarray(np.stack(streams).reshape(shape).swapaxes(0, 1))

    def _stream(self, agent: int, start: int, length: int) -> np.ndarray:
        epochs = -(-SAMPLES_A_DRAW // len(self.parts[agent]))
        size = epochs * len(self.parts[agent])
        first, last = start // size, (start + length - 1) // size
        draws = [self._drawn(agent, epochs, d) for d in range(first, last + 1)]
        offset = start - first * size
        return np.concatenate(draws)[offset : offset + length]

    def _drawn(self, agent: int, epochs: int, number: int) -> np.ndarray:
        held = self._last.get(agent)
        if held is not None and held[0] == number:
            return held[1]
        tiled = np.tile(self.parts[agent].astype(np.int64), (epochs, 1))
        drawn = (
            np.random.default_rng([self.seed, self.first_agent + agent, number])
            .permuted(tiled, axis=1)
            .ravel()
        )
        self._last[agent] = number, drawn
        return drawn
