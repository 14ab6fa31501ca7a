"""Stochastic quantization: each number becomes a small whole number times its bucket's scale, right on average."""

from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import Literal

import torch

from fastsaddle.compressors._wire import (
    bit_ranges,
    largest_of,
    refuse_nonfinite,
    refuse_other_shape,
    row_norms,
    rows_of,
    step_tensor,
    table_of,
    weight_tensor,
    write_back,
)
from fastsaddle.compressors.base import Compressor, Payload
from fastsaddle.kernels.compress_ef import compress_ef
from fastsaddle.kernels.dequantize_add import dequantize_add
from fastsaddle.kernels.quantize import quantize
from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.hyperparameters import is_whole

NORMS = ("max", "l2")


@dataclass(frozen=True)
class StochasticQuantizer(Compressor):
    """QSGD: each number becomes a code of `bits` bits times the scale of its bucket, right on average.

    Alistarh et al. 2017 (arXiv:1610.02132). The default is a true wire format of `bits` bits, sign included (127 levels
    at 8 bits, 7 at 4, 1 at 2). Every `bucket` elements of a tensor share a float32 scale: their largest magnitude over
    the levels. Buckets begin anew with each tensor.

    The quantizer of the published decentralized codes has one scale a tensor, and needs one more bit an element, for
    the sign: `StochasticQuantizer(8, bucket=None, norm="l2", levels=255)`, or `levels=2**bits - 1` with other bits. It
    is counted so.

    Args:
        bits: 8, 4 or 2.
        bucket: elements that share a scale, a multiple of 32; None is a whole tensor.
        norm: what the scale comes from: "max", the largest magnitude, or "l2", the Euclidean norm.
        levels: largest code; None is 2^(bits - 1) - 1. From 2^(bits - 1) on, signs are sent separately.
        biased: multiply by tau = 1 / (1 + omega), which makes it a contraction (Koloskova et al. 2019,
            arXiv:1907.09356, section 3.3). CHOCO gossip needs one: without it, 2 bits diverge.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> eight_bits = fs.compressors.StochasticQuantizer(8)
        >>> optimizer = fs.DSGD(stack.parameters(), topology="ring", compressor=eight_bits)
        >>> eight_bits.wire_bytes(1000)
        1008
    """

    bits: int = 8
    bucket: int | None = 512
    norm: Literal["max", "l2"] = "max"
    levels: int | None = None
    biased: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (2, 4, 8):
            raise ValueError(f"bits must be 2, 4 or 8, got {self.bits}")
        bucket, levels = self.bucket, self.levels
        if bucket is not None and (not is_whole(bucket) or bucket < 32 or bucket % 32):
            raise ValueError(f"bucket must be None or a multiple of 32, got {bucket!r}")
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if levels is not None and (not is_whole(levels) or not 1 <= levels < 2**self.bits):
            raise ValueError(
                f"levels must be in 1..{2**self.bits - 1} for {self.bits} bits, got {levels!r}"
            )

    @property
    def most(self) -> int:
        """The largest code, which is the number of levels."""
        return 2 ** (self.bits - 1) - 1 if self.levels is None else self.levels

    @property
    def has_sign_plane(self) -> bool:
        """Whether signs are sent separately from the codes, one bit each."""
        return self.most >= 2 ** (self.bits - 1)

    def encode(
        self,
        x: torch.Tensor,
        seed: int = 0,
        step: int | torch.Tensor = 0,
        *,
        layout: FlatLayout | None = None,
        first_agent: int = 0,
    ) -> Payload:
        rows, place = rows_of(x, layout)
        payload = self._empty(x.shape, layout, place, rows.device)
        quantize(
            rows,
            *self._buckets(rows, place),
            *self._draw(rows, seed, step, first_agent),
            *self._outputs(payload),
        )
        refuse_nonfinite(payload.parts["scales"], rows)
        if self.biased:
            payload.parts["scales"].mul_(self._tau(place, rows.device))
        return payload

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
        refuse_other_shape("residual", residual, x.shape)
        rows, place = rows_of(x, layout)
        memory, _ = rows_of(residual, layout)
        copied = memory.data_ptr() != residual.data_ptr()
        # a scaled-down value, rows that had to be copied and what may not be finite take the plain way
        if self.biased or copied or _may_overflow(rows, memory, largest_of(place, self.bucket)):
            return super().compress_ef_(
                x, residual, seed, step, layout=layout, first_agent=first_agent
            )
        payload = self._empty(x.shape, layout, place, rows.device)
        draw = self._draw(rows, seed, step, first_agent)
        compress_ef(rows, memory, *self._buckets(rows, place), *draw, *self._outputs(payload))
        return payload

    def decode_add_(
        self, payload: Payload, out: torch.Tensor, weight: float | torch.Tensor = 1.0
    ) -> None:
        refuse_other_shape("out", out, payload.shape)
        rows, place = rows_of(out, payload.layout)
        dequantize_add(
            payload.parts["codes"],
            payload.parts["scales"],
            payload.parts.get("signs"),
            *self._buckets(rows, place),
            self.bits,
            weight_tensor(weight, out),
            rows,
        )
        write_back(rows, out)

    def wire_bytes(self, dim: int) -> int:
        signs = -(-dim // 8) if self.has_sign_plane else 0
        return -(-dim * self.bits // 8) + signs + 4 * -(-dim // (self.bucket or dim))

    def omega(self, dim: int) -> float | None:
        return None if self.biased else self._variance(dim)

    def delta(self, dim: int) -> float:
        return 1 / (1 + self._variance(dim)) if self.biased else super().delta(dim)

    def _variance(self, dim: int) -> float:
        """Bound of the unbiased quantizer's variance over ||x||^2.

        Euclidean: QSGD's lemma 3.1. Largest magnitude: an element between two levels, f of the way, has variance
        f (1 - f) scale^2, at most a quarter of scale^2 and at most |x| scale; the largest itself has none. With
        y = x / scale, sum f (1 - f) / (levels^2 + sum y^2) is then at most both terms.
        """
        elements, s = min(dim, self.bucket or dim), self.most
        if self.norm == "l2":
            return min(elements / s**2, sqrt(elements) / s)
        return min((elements - 1) / (4 * s**2), sqrt(elements - 1) / (2 * s))

    def _tau(self, place: FlatLayout, device: torch.device) -> torch.Tensor:
        sizes = table_of(place, self.bucket, torch.device("cpu"))[:, 1].tolist()
        return _on_device(tuple(1 / (1 + self._variance(n)) for n in sizes), device)

    def _buckets(self, rows: torch.Tensor, place: FlatLayout) -> tuple[torch.Tensor, int]:
        return table_of(place, self.bucket, rows.device), largest_of(place, self.bucket)

    def _draw(
        self, rows: torch.Tensor, seed: int, step: int | torch.Tensor, first_agent: int
    ) -> tuple[int, int, int, int, torch.Tensor, int]:
        number = step_tensor(step, rows.device)
        return self.bits, self.most, NORMS.index(self.norm), seed, number, first_agent

    def blank(self, agents: int, layout: FlatLayout, device: torch.device) -> Payload:
        """A payload with memory for the given rows, not yet filled.

        Args:
            agents: number of rows.
            layout: where tensors lie in a row.
            device: the device of its parts.
        """
        return self._empty((agents, layout.stride), layout, layout, device)

    def in_messages(self, messages: torch.Tensor, layout: FlatLayout) -> Payload | None:
        """A payload whose parts lie in the messages themselves: writing the one writes the other.

        Args:
            messages: uint8 `[agents, message_bytes(layout)]`; may be a part of a larger buffer.
            layout: as for `encode`.

        Returns:
            The payload; None if messages leave out padding between tensors, or their scales are not aligned.
        """
        width = layout.ranges[-1][1]
        sizes = [width * self.bits // 8, 4 * len(table_of(layout, self.bucket, messages.device))]
        travels = {"codes": bit_ranges(layout, self.bits)}
        if self.has_sign_plane:
            sizes.append(width // 8)
            travels["signs"] = bit_ranges(layout, 1)
        is_whole = all(
            ranges == ((0, size),)
            for ranges, size in zip(travels.values(), sizes[::2], strict=True)
        )
        if not is_whole or messages.storage_offset() % 4 or messages.stride(0) % 4:
            return None
        codes, scales, *signs = messages.split(sizes, 1)
        parts = {"codes": codes, "scales": scales.view(torch.float32)}
        if signs:
            parts["signs"] = signs[0]
        return Payload((len(messages), layout.stride), layout, parts, travels)

    def _empty(
        self,
        shape: tuple[int, ...],
        layout: FlatLayout | None,
        place: FlatLayout,
        device: torch.device,
    ) -> Payload:
        agents, columns = shape[0], max(end for _, end in place.ranges)
        buckets = len(table_of(place, self.bucket, device))
        parts = {
            "codes": torch.empty(
                agents, columns * self.bits // 8, dtype=torch.uint8, device=device
            ),
            "scales": torch.empty(agents, buckets, dtype=torch.float32, device=device),
        }
        travels = {"codes": bit_ranges(place, self.bits)}
        if self.has_sign_plane:
            parts["signs"] = torch.empty(agents, columns // 8, dtype=torch.uint8, device=device)
            travels["signs"] = bit_ranges(place, 1)
        return Payload((agents, shape[1]), layout, parts, travels)

    def _outputs(self, payload: Payload) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        return payload.parts["codes"], payload.parts["scales"], payload.parts.get("signs")


def _may_overflow(x: torch.Tensor, residual: torch.Tensor, elements: int) -> bool:
    """Whether x + residual, or a norm of that many of its elements, may not be finite; on a GPU nothing is read."""
    if x.device.type != "cpu":
        return False
    # no element of a row is larger than its norm
    largest = sum(float(row_norms(rows).max()) for rows in (x, residual))
    return not 2 * sqrt(elements) * largest <= torch.finfo(torch.float32).max


# kept for good: a captured graph knows nothing but its address
@cache
def _on_device(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


EXAMPLES = (
    StochasticQuantizer(8),
    StochasticQuantizer(4),
    StochasticQuantizer(2),
    StochasticQuantizer(8, bucket=None),
    StochasticQuantizer(4, bucket=32, biased=True),
    StochasticQuantizer(2, biased=True),
    StochasticQuantizer(8, bucket=None, norm="l2", levels=255),
    StochasticQuantizer(4, bucket=None, norm="l2", levels=15, biased=True),
    StochasticQuantizer(2, bucket=64, levels=3),
)
