"""Random arguments for the rooms' tests and benchmarks: fresh numbers, padding between rows, ring-like lists."""

import torch


class Draw:
    """Draws one room's arguments for `agents` rows of `columns` from `generator` (on the CPU)."""

    def __init__(self, agents: int, columns: int, generator: torch.Generator) -> None:
        self.agents, self.columns, self.generator = agents, columns, generator

    def rows(self) -> torch.Tensor:
        """`[agents, columns]` float32, normal; rows lie 128 columns further apart than they are wide."""
        stride = (self.columns + 127) // 128 * 128 + 128
        buffer = torch.empty(self.agents, stride).normal_(generator=self.generator)
        return buffer[:, : self.columns]

    def scalar(self, low: float, high: float) -> torch.Tensor:
        """One value for all agents, 0-d float32."""
        return torch.empty(()).uniform_(low, high, generator=self.generator)

    def scalars(self, low: float, high: float) -> torch.Tensor:
        """One value for each agent, `[agents]` float32."""
        return torch.empty(self.agents).uniform_(low, high, generator=self.generator)

    def lists(self, degree: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
        """Neighbor lists of mixed lengths: self, then up to `degree` others ascending, padded with -1."""
        width = min(degree, self.agents - 1) + 1
        neighbors = torch.full((self.agents, width), -1, dtype=torch.int32)
        for i in range(self.agents):
            order = torch.randperm(self.agents, generator=self.generator)
            count = int(torch.randint(0, width, (), generator=self.generator)) if i else width - 1
            others = order[order != i][:count].sort().values
            neighbors[i, 0] = i
            neighbors[i, 1 : 1 + count] = others.int()
        weights = torch.rand(self.agents, width, generator=self.generator) * (neighbors >= 0)
        return neighbors, weights / weights.sum(1, keepdim=True)

    def norms(self) -> torch.Tensor:
        """Gradient norms `[agents]`, all finite but, from three agents on, one NaN and one infinite."""
        norm = self.scalars(0.5, 2.0)
        if self.agents >= 3:
            norm[1], norm[2] = float("nan"), float("inf")
        return norm
