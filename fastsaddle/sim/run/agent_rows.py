"""Which of a run's tensors have a row for each agent, and how parts of agents come together."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastsaddle.optimizer.shell import Optimizer


def dimensions(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> dict[str, int | None]:
    """The dimension that counts agents, of each tensor that a checkpoint holds; None where all share it."""
    found: dict[str, int | None] = dict.fromkeys(tensors)
    shared = {state.name for state in optimizer.states if state.rows == "one"}
    rows = optimizer.flat_state.keys() - shared
    for name in tensors:
        own = name.removeprefix("optimizer.")
        if name == "x" or name.startswith("buffer.") or own in rows:
            found[name] = 0
        elif own in optimizer.scalar_state:
            found[name] = 1
    return found


def part(
    tensors: Mapping[str, Tensor], of: Mapping[str, int | None], agents: range
) -> dict[str, Tensor]:
    """The rows of some agents, of tensors of all; what all share as it is."""
    found = {}
    for name, tensor in tensors.items():
        dimension = of.get(name)
        whole = dimension is None or tensor.dim() <= dimension
        found[name] = (
            tensor if whole else tensor.narrow(dimension, agents.start, len(agents))  # type: ignore[arg-type]
        )
    return found


def joined(
    parts: Sequence[Mapping[str, Tensor]], of: Mapping[str, int | None]
) -> dict[str, Tensor]:
    """Tensors of all agents from those of parts of them, in order; what all share is the first part's."""
    found = {}
    for name, tensor in parts[0].items():
        dimension = of.get(name)
        found[name] = (
            tensor if dimension is None else torch.cat([p[name] for p in parts], dimension)
        )
    return found
