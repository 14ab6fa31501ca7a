"""Random arguments for the ops' tests and benchmarks: fresh numbers, padding between rows, ring-like lists."""

from typing import Any

import torch

from fastsaddle.kernels._shared.buckets.reference import is_element, packed


class Draw:
    """Draws one op's arguments for `agents` rows of `columns` from `generator` (on the CPU)."""

    def __init__(self, agents: int, columns: int, generator: torch.Generator) -> None:
        self.agents, self.columns, self.generator = agents, columns, generator

    def rows(self) -> torch.Tensor:
        """`[agents, columns]` float32, normal; rows lie 128 columns further apart than they are wide."""
        stride = (self.columns + 127) // 128 * 128 + 128
        buffer = torch.empty(self.agents, stride).normal_(generator=self.generator)
        return buffer[:, : self.columns]

    def state(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`rows` with the same strides, as state of `dtype` keeps them."""
        buffer = torch.zeros(len(rows), rows.stride(0), dtype=dtype)
        return buffer[:, : self.columns].copy_(rows)

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

    def halo(self, degree: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(rows, neighbors, weights): foreign rows lie behind those of the agents, and lists name rows of both."""
        stacked = Draw(self.agents + self.agents // 2 + 3, self.columns, self.generator)
        neighbors, weights = (lists[: self.agents].contiguous() for lists in stacked.lists(degree))
        # agent 0 has a full list: its last entry, so that at least one foreign row is heard whatever was drawn
        neighbors[0, -1] = stacked.agents - 1
        return stacked.rows(), neighbors, weights

    def norms(self) -> torch.Tensor:
        """Gradient norms `[agents]`, all finite but, from three agents on, one NaN and one infinite."""
        norm = self.scalars(0.5, 2.0)
        if self.agents >= 3:
            norm[1], norm[2] = float("nan"), float("inf")
        return norm

    def active(self) -> torch.Tensor:
        """Which agents step, `[agents]` bool: some, the first of several, and never the last."""
        active = torch.rand(self.agents, generator=self.generator) < 0.5
        active[0], active[-1] = True, False
        return active

    def uneven_rows(self) -> torch.Tensor:
        """Normal rows whose magnitudes differ by orders, with zeros of both signs and numbers next to none."""
        x = self.rows()
        x *= torch.logspace(-6, 3, self.columns)
        chance = torch.rand(x.shape, generator=self.generator)
        x[chance < 0.1] = 0.0
        x[chance > 0.9] = -0.0
        # a bucket of numbers too small for a scale, and an agent with nothing to say
        x[0, : min(512, self.columns // 2)] *= 1e-35
        if self.agents > 3:
            x[3] = 0.0
        return x

    def buckets(self, size: int | None) -> torch.Tensor:
        """A table of buckets over all columns: of a few tensors with odd numbers of elements, at most `size` each."""
        bounds = torch.randint(0, self.columns // 32 + 1, (3,), generator=self.generator) * 32
        ends = sorted({*bounds.tolist(), self.columns} - {0})
        table, first = [], 0
        for end in ends:
            missing = int(torch.randint(0, 32, (), generator=self.generator))
            last = end - missing
            for start in range(first, last, size or self.columns):
                table.append((start, min(last - start, size or self.columns)))
            first = end
        return torch.tensor(table, dtype=torch.int32)

    def without_holes(self, x: torch.Tensor, buckets: torch.Tensor) -> torch.Tensor:
        """A copy of `x` with zeros between the buckets, and the strides of `rows()`."""
        result = self.rows()
        result.zero_()
        for first, elements in buckets.tolist():
            result[:, first : first + elements] = x[:, first : first + elements]
        return result

    def random(self) -> dict[str, Any]:
        """What random bits are indexed by: a long seed, a large step, an agent that is not the first."""
        high, low, step, agent = torch.randint(0, 2**31, (4,), generator=self.generator).tolist()
        return {
            "seed": high * 2**31 + low,
            "step": torch.tensor(2 * step + 1),
            "first_agent": agent % 1000,
        }

    def code(self, bits: int, buckets: torch.Tensor, has_signs: bool) -> dict[str, Any]:
        """Random codes, scales and signs; padding holds zeros as an encoder leaves it."""
        fields = torch.randint(0, 2**bits, (self.agents, self.columns), generator=self.generator)
        negative = torch.randint(0, 2, fields.shape, generator=self.generator)
        element = is_element(buckets)
        scales = torch.rand(self.agents, len(buckets), generator=self.generator)
        return {
            "codes": packed((fields * element).int(), bits),
            "scales": scales,
            "signs": packed((negative * element).int(), 1) if has_signs else None,
        }
