"""All that an optimizer knows, to compare bit for bit, and checkpoints through a file."""

import copy
import io
import pickle
from collections.abc import Iterator
from typing import Any

import torch

COPIES = (copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer)))
Snapshot = list[tuple[str, Any]]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        yield path, value.detach().clone()
    elif isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}.{index}")
    else:
        yield path, value


def snapshot(optimizer: Any, parameters: list[torch.Tensor]) -> Snapshot:
    """Parameters, saved and flat state, and what was counted; gradients are not part of it."""
    counted = {"bytes": optimizer.bytes_sent, "rounds": int(optimizer.rounds)}
    flat = {name: value for name, value in optimizer.flat_state.items()}
    return [*leaves([parameters, optimizer.state_dict(), flat, counted])]


def equal(one: Snapshot, other: Snapshot) -> bool:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    return len(one) == len(other) and all(
        path == where and same(a, b) for (path, a), (where, b) in zip(one, other, strict=True)
    )


def reload(
    optimizer: Any, parameters: list[torch.Tensor], fresh: Any, others: list[torch.Tensor]
) -> None:
    """Write a checkpoint, read it without pickled code, and load it into another optimizer."""
    file = io.BytesIO()
    torch.save({"x": parameters, "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    with torch.no_grad():
        for p, value in zip(others, loaded["x"], strict=True):
            p.copy_(value)
    fresh.load_state_dict(loaded["optimizer"])


def twins(optimizer: Any) -> list[tuple[Any, list[torch.Tensor]]]:
    """A deep copy, and one that went through a pickle, with their parameters in the original's order."""
    made = [copied(optimizer) for copied in COPIES]
    return [(twin, [p for group in twin.param_groups for p in group["params"]]) for twin in made]
