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
    """What every agent would send: packed bytes, scales and indices. `fs.compressors.Compressor.encode` makes it.

    Attributes:
        shape: `(agents, columns)` of what was encoded.
        layout: its layout; None if it was one tensor without padding.
        parts: tensors `[agents, ...]` by name, with each agent's part contiguous.
        travels: for some parts, the ranges of bytes of a row that are sent, ascending; the other parts are sent whole.
            Padding is not sent, nor is what the receiver can make itself.
        made: for parts that are not sent, how the receiver makes them: from numbers of agents to `[agents, ...]`.
    """

    shape: tuple[int, int]
    layout: FlatLayout | None
    parts: Mapping[str, torch.Tensor]
    travels: Mapping[str, Ranges] = field(default_factory=dict)
    made: Mapping[str, Callable[[Sequence[int]], torch.Tensor]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that all agents together send if each sends to one neighbor; all messages are equally long."""
        return self.shape[0] * self._each

    def message(self, agent: int) -> torch.Tensor:
        """The bytes of one agent's message, uint8 `[nbytes / agents]`.

        Args:
            agent: the agent's row.
        """
        return self._joined({name: part[[agent]] for name, part in self.parts.items()})[0]

    def packed(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """All messages, uint8 `[agents, nbytes / agents]`: row i is `message(i)`.

        Args:
            out: where to write them; None makes a new tensor.
        """
        return self._joined(self.parts, out)

    @classmethod
    def unpacked(cls, packed: torch.Tensor, like: Payload, agents: Sequence[int]) -> Payload:
        """The payload of other agents whose messages have arrived.

        Args:
            packed: their messages, uint8 `[agents, bytes]`; may be a part of a larger buffer.
            like: a payload of the same compressor, layout, seed and step.
            agents: their numbers.

        Raises:
            ValueError: the bytes are no messages like these, or a part neither travels nor can be made.
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

    Your own is a subclass that writes `encode`, `decode_add_` and `wire_bytes`; docs/adding.md has one. `delta` and
    `omega` are what it claims about its error, for any x of `dim` elements, in expectation over its draws:

        delta: E ||Q(x) - x||^2 <= (1 - delta) ||x||^2            a contraction, if delta > 0
        omega: E Q(x) = x and E ||Q(x) - x||^2 <= omega ||x||^2   unbiased; None if it is biased

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> compressor = fs.compressors.TopK(0.25)
        >>> x = torch.tensor([[4.0, -3.0, 2.0, 1.0]])
        >>> payload = compressor.encode(x)
        >>> payload.nbytes, compressor.decode(payload)
        (8, tensor([[4., 0., 0., 0.]]))
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
        """Compress every row of x.

        Equal arguments give equal bytes, in any process and together with any other rows.

        Args:
            x: `[agents, columns]` float32; it is not changed.
            seed: seed of all random numbers, in [0, 2^63).
            step: tells messages of one agent apart: an int, or int64, 0-d or `[agents]`, on the device of x.
            layout: where tensors lie in a row (`[agents, layout.stride]`; padding holds zeros and does not count); None
                is one tensor without padding.
            first_agent: number of the first row's agent.

        Raises:
            ValueError: x is not float32 rows of that layout, or, on a CPU, is not finite.
        """

    @abstractmethod
    def decode_add_(
        self, payload: Payload, out: torch.Tensor, weight: float | torch.Tensor = 1.0
    ) -> None:
        """out += weight * Q(x), in place.

        Args:
            payload: what `encode` returned for x.
            out: float32 rows shaped like x.
            weight: a number, or a tensor, 0-d or `[agents]`.

        Raises:
            ValueError: `out` or `weight` has another shape.
        """

    @abstractmethod
    def wire_bytes(self, dim: int) -> int:
        """Bytes of one agent's message for one tensor, scales and indices included.

        Args:
            dim: elements of the tensor.
        """

    def delta(self, dim: int) -> float:
        """The claimed contraction; 0 claims none.

        Args:
            dim: elements of the tensor.
        """
        omega = self.omega(dim)
        return 0.0 if omega is None else max(0.0, 1.0 - omega)

    def omega(self, dim: int) -> float | None:
        """The claimed variance; None if the compressor is biased.

        Args:
            dim: elements of the tensor.
        """
        return None

    def decode(self, payload: Payload) -> torch.Tensor:
        """Q(x), float32 and shaped like x, with zeros in the padding.

        Args:
            payload: what `encode` returned for x.
        """
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

        Karimireddy et al. 2019 (arXiv:1901.09847).

        Args:
            x: as for `encode`.
            residual: what earlier messages left out, shaped like x; unchanged if an error is raised.
            seed: as for `encode`.
            step: as for `encode`.
            layout: as for `encode`.
            first_agent: as for `encode`.

        Returns:
            The payload of v.

        Raises:
            ValueError: `residual` has another shape than x, or as `encode`.
        """
        refuse_other_shape("residual", residual, x.shape)
        v = x.detach() + residual
        payload = self.encode(v, seed, step, layout=layout, first_agent=first_agent)
        self.decode_add_(payload, v, -1.0)
        residual.copy_(v)
        return payload

    def message_bytes(self, layout: FlatLayout) -> int:
        """Bytes of one agent's message for all tensors of a layout.

        Args:
            layout: where tensors lie in a row.
        """
        return sum(self.wire_bytes(n) for n in map(prod, layout.shapes) if n)
