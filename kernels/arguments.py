"""Argument checks that ops share: agent-stacked rows, per-agent scalars, neighbor lists."""

from collections.abc import Mapping

import torch

from fastsaddle.kernels._shared.bfloat16.reference import STATE_DTYPES

# every tensor of a row starts at a multiple of this many elements, and so does every column range
ALIGNMENT = 32

# kernels count the columns of one row in 32 bits; rows together may have more elements
MOST_COLUMNS = 2**31 - 2**14

INDEX_RULE = "every index must name a sample, in 0..samples-1"


def check_rows(like: torch.Tensor, **rows: torch.Tensor | None) -> None:
    """Each of `rows` is float32 `[agents, columns]`, laid out row by row, and shaped like `like`."""
    _check_rows(like, (torch.float32,), rows)


def check_state(like: torch.Tensor, **rows: torch.Tensor | None) -> None:
    """The same for rows of state, which may be bfloat16 instead."""
    _check_rows(like, STATE_DTYPES, rows)


def _check_rows(
    like: torch.Tensor, dtypes: tuple[torch.dtype, ...], rows: Mapping[str, torch.Tensor | None]
) -> None:
    for name, tensor in rows.items():
        if tensor is None:
            continue
        if tensor.dtype not in dtypes or tensor.device != like.device:
            allowed = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise ValueError(
                f"{name} must be {allowed} on {like.device}, got {tensor.dtype} on {tensor.device}"
            )
        if tensor.dim() != 2 or tensor.shape != like.shape:
            raise ValueError(
                f"{name} must be [agents, columns] = {tuple(like.shape)}, got {tuple(tensor.shape)}"
            )
        agents, columns = tensor.shape
        if agents < 1 or columns < 1 or columns % ALIGNMENT:
            raise ValueError(
                f"{name} needs at least one agent and a multiple of {ALIGNMENT} columns, "
                f"got {tuple(tensor.shape)}"
            )
        if columns > MOST_COLUMNS:
            raise ValueError(f"{name} may have at most {MOST_COLUMNS} columns, got {columns}")
        stride = tensor.stride(0)
        if tensor.stride(1) != 1 or (agents > 1 and (stride % ALIGNMENT or stride < columns)):
            raise ValueError(
                f"{name} needs adjacent columns and a row stride that is a multiple of {ALIGNMENT}, "
                f"got strides {tensor.stride()}"
            )


def check_senders(like: torch.Tensor, **rows: torch.Tensor) -> None:
    """The same, float32, for rows that may outnumber those of `like`: what was received lies behind the agents' own."""
    for name, tensor in rows.items():
        agents, columns = like.shape
        if tensor.dim() != 2 or tensor.shape[0] < agents or tensor.shape[1] != columns:
            raise ValueError(
                f"{name} must be [agents + foreign, columns] with at least {agents} rows "
                f"of {columns} columns, got {tuple(tensor.shape)}"
            )
        check_rows(tensor, **{name: tensor})
        if tensor.device != like.device:
            raise ValueError(f"{name} must be on {like.device}, got {tensor.device}")


def check_scalars(like: torch.Tensor, **scalars: torch.Tensor) -> None:
    """Each of `scalars` is float32 and 0-d, or `[agents]` and contiguous, on the rows' device."""
    for name, tensor in scalars.items():
        if tensor.dim() == 0 and tensor.dtype == torch.float32 and tensor.device == like.device:
            continue
        check_per_agent(like, torch.float32, **{name: tensor})


def check_per_agent(like: torch.Tensor, dtype: torch.dtype, **vectors: torch.Tensor | None) -> None:
    """Each of `vectors` is `[agents]`, contiguous, of `dtype`, on the rows' device."""
    for name, tensor in vectors.items():
        if tensor is None:
            continue
        if (
            tensor.dtype != dtype
            or tensor.device != like.device
            or tensor.shape != like.shape[:1]
            or not tensor.is_contiguous()
        ):
            raise ValueError(
                f"{name} must be {dtype} [agents] = ({like.shape[0]},) on {like.device}, "
                f"got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            )


def check_columns(like: torch.Tensor, **vectors: torch.Tensor) -> None:
    """Each of `vectors` is float32 `[columns]`, contiguous, on the rows' device: one value for every column."""
    for name, tensor in vectors.items():
        if (
            tensor.dtype != torch.float32
            or tensor.device != like.device
            or tensor.shape != like.shape[1:]
            or not tensor.is_contiguous()
        ):
            raise ValueError(
                f"{name} must be float32 [columns] = ({like.shape[1]},) on {like.device}, "
                f"got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            )


def check_neighbors(
    like: torch.Tensor, lists: torch.Tensor, weights: torch.Tensor, called: str = "neighbors"
) -> None:
    """`lists` int32 and `weights` float32 are `[agents, width]`, contiguous, on the rows' device."""
    for name, tensor, dtype in (
        (called, lists, torch.int32),
        ("weights", weights, torch.float32),
    ):
        if (
            tensor.dtype != dtype
            or tensor.device != like.device
            or tensor.dim() != 2
            or tensor.shape[0] != like.shape[0]
            or tensor.shape[1] < 1
            or tensor.shape != lists.shape
            or not tensor.is_contiguous()
        ):
            raise ValueError(
                f"{name} must be {dtype} [agents, width] with {like.shape[0]} rows on {like.device}, "
                f"got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
            )


def per_agent(scalar: torch.Tensor) -> torch.Tensor:
    """A scalar argument as a column that broadcasts over rows."""
    return scalar if scalar.dim() == 0 else scalar[:, None]
