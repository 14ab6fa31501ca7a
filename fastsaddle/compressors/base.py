"""The contract of a compressor: rows in, a payload of packed bytes out, and back; with a claim about the error.

Your own is one class in your own file: subclass `Compressor`, write `encode`, `decode_add_` and `wire_bytes`, and say
what you claim in `delta` or `omega`. Nothing needs to be registered: optimizers take objects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch

from fastsaddle.compressors._wire import cuts, refuse_other_shape
from fastsaddle.optimizer.flat_layout import FlatLayout

# bytes of a part's row that travel
Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Payload:
    """What every agent would send: packed bytes, scales and indices.

    Attributes:
        shape: `(agents, columns)` of what was encoded.
        layout: its layout; None where it was one tensor without padding.
        parts: tensors `[agents, ...]` by name, each agent's part contiguous.
        travels: for some parts, the ranges of bytes of a row that are sent, ascending; the others are sent whole.
            Padding is not sent, nor is what the receiver can make itself.
        made: for parts of which nothing is sent, how they are made: from numbers of agents, `[agents, ...]`.
    """

    shape: tuple[int, int]
    layout: FlatLayout | None
    parts: Mapping[str, torch.Tensor]
    travels: Mapping[str, Ranges] = field(default_factory=dict)
    made: Mapping[str, Callable[[Sequence[int]], torch.Tensor]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that all agents together would send to one neighbor each; equal for all agents."""
        return self.shape[0] * self._each

    def message(self, agent: int) -> torch.Tensor:
        """The very bytes of one agent's message, uint8, `nbytes / agents` of them."""
        return self._joined({name: part[[agent]] for name, part in self.parts.items()})[0]

    def packed(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """All messages, uint8 `[agents, nbytes / agents]`, new or in `out`: row i is `message(i)`."""
        return self._joined(self.parts, out)

    @classmethod
    def unpacked(cls, packed: torch.Tensor, like: Payload, agents: Sequence[int]) -> Payload:
        """The payload of other agents whose messages have arrived.

        Args:
            packed: uint8 `[agents, bytes]`, their messages; may be a part of a larger buffer.
            like: a payload of the same compressor, layout, seed and step.
            agents: their numbers.

        Raises:
            ValueError: bytes that are no messages like these, or a part that neither travels nor can be made.
        """
        if packed.dtype != torch.uint8 or packed.shape != (len(agents), like._each):
            raise ValueError(
                f"messages must be uint8 [{len(agents)}, {like._each}], got {packed.dtype} {tuple(packed.shape)}"
            )
        parts, first = {}, 0
        for name, part in like.parts.items():
            ranges = like._ranges(name)
            if not ranges:
                if name not in like.made:
                    raise ValueError(f"part {name} must travel, or be in `made`, got neither")
                parts[name] = like.made[name](agents)
                continue
            sizes = cuts(tuple(ranges), row_bytes(part))
            count = sum(sizes[1::2])
            arrived = packed[:, first : first + count].split_with_sizes(sizes[1::2], 1)
            holes = [packed.new_zeros(len(agents), size) for size in sizes[::2]]
            both = [piece for pair in zip(holes, arrived, strict=False) for piece in pair]
            # new memory: bytes of a message need not lie as wider numbers must
            row = torch.cat([*both, holes[-1]], 1)
            parts[name] = row.view(part.dtype).view(len(agents), *part.shape[1:])
            first += count
        return cls((len(agents), like.shape[1]), like.layout, parts, like.travels, like.made)

    @property
    def _each(self) -> int:
        """Bytes of one message."""
        return sum(end - first for name in self.parts for first, end in self._ranges(name))

    def _ranges(self, name: str) -> Ranges:
        return self.travels.get(name, [(0, row_bytes(self.parts[name]))])

    def _joined(
        self, parts: Mapping[str, torch.Tensor], out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Messages of agents that have these parts, uint8 `[agents, bytes]`."""
        pieces = [
            piece
            for name, part in parts.items()
            for piece in part.flatten(1)
            .view(torch.uint8)
            .split_with_sizes(cuts(tuple(self._ranges(name)), row_bytes(part)), 1)[1::2]
        ]
        return torch.cat(pieces, 1, out=out)


def row_bytes(part: torch.Tensor) -> int:
    """Bytes of one agent's row of a part."""
    return prod(part.shape[1:]) * part.dtype.itemsize


class Compressor(ABC):
    """A map Q of every agent's row to fewer bytes.

    What it claims holds for any x of `dim` elements, in expectation over its draws:

        delta: E ||Q(x) - x||^2 <= (1 - delta) ||x||^2            a contraction, where delta > 0
        omega: E Q(x) = x and E ||Q(x) - x||^2 <= omega ||x||^2   unbiased; None where it is not
    """

    @abstractmethod
    def encode(
        self,
        x: torch.Tensor,
        seed: int = 0,
        step: int | torch.Tensor = 0,
        *,
        layout: FlatLayout | None = None,
        first_agent: int = 0,
    ) -> Payload:
        """Compress every row of x; equal arguments give equal bytes, in any process and with any other rows.

        Args:
            x: `[agents, columns]` float32, untouched.
            seed: of all random numbers, in [0, 2^63).
            step: tells apart messages of one agent: an int, or int64, 0-d or `[agents]`, on x's device.
            layout: where tensors lie in a row (`[agents, layout.stride]`; padding holds zeros and does not count);
                None is one tensor without padding.
            first_agent: number of the first row's agent.

        Raises:
            ValueError: x is not float32 rows of that layout, or on a CPU is not finite.
        """

    @abstractmethod
    def decode_add_(
        self, payload: Payload, out: torch.Tensor, weight: float | torch.Tensor = 1.0
    ) -> None:
        """out += weight * Q(x), in place on float32 rows shaped like x; `weight` may be a tensor, 0-d or `[agents]`.

        Raises:
            ValueError: `out` or `weight` is shaped otherwise.
        """

    @abstractmethod
    def wire_bytes(self, dim: int) -> int:
        """Bytes of one agent's message for one tensor of `dim` elements, scales and indices included."""

    def delta(self, dim: int) -> float:
        """The claimed contraction for tensors of `dim` elements; 0 claims none."""
        omega = self.omega(dim)
        return 0.0 if omega is None else max(0.0, 1.0 - omega)

    def omega(self, dim: int) -> float | None:
        """The claimed variance for tensors of `dim` elements; None where it is biased."""
        return None

    def decode(self, payload: Payload) -> torch.Tensor:
        """Q(x), float32, shaped like x, padding zero."""
        device = next(iter(payload.parts.values())).device
        out = torch.zeros(payload.shape, dtype=torch.float32, device=device)
        self.decode_add_(payload, out)
        return out

    def compress_ef_(
        self,
        x: torch.Tensor,
        residual: torch.Tensor,
        seed: int = 0,
        step: int | torch.Tensor = 0,
        *,
        layout: FlatLayout | None = None,
        first_agent: int = 0,
    ) -> Payload:
        """Error feedback: encode v = x + residual, and leave v - Q(v) in `residual`, in place.

        Karimireddy et al. 2019 (arXiv:1901.09847). Arguments and errors as in `encode`; `residual` is shaped like x,
        and is as before where an error is raised.
        """
        refuse_other_shape("residual", residual, x.shape)
        v = x.detach() + residual
        payload = self.encode(v, seed, step, layout=layout, first_agent=first_agent)
        self.decode_add_(payload, v, -1.0)
        residual.copy_(v)
        return payload

    def message_bytes(self, layout: FlatLayout) -> int:
        """Bytes of one agent's message for all tensors of a layout."""
        return sum(self.wire_bytes(n) for n in map(prod, layout.shapes) if n)
