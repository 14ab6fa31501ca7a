"""What a CUDA graph does, on the CPU: a step's operators are recorded with their tensors, and replayed without Python.

Stricter than CUDA where that tells mistakes: whatever would wait for a GPU, copy from the host or draw at random is
refused, memory that nobody keeps is noticed, and what was allocated without a value is NaN in each replay.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

# they read a CPU tensor without an operator that could be seen, and would wait for a GPU's
READING = (Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__)
# their content is what the memory held
EMPTY = ("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided")
Replay = Callable[[], None]


class RefusedError(RuntimeError):
    """An operator that cannot be captured."""


class Borrowed:
    """A tensor of memory from before the recording, which the recording does not keep."""

    def __init__(self, tensor: Tensor) -> None:
        self._ref = StorageWeakRef(tensor.untyped_storage())
        self._place = tensor.storage_offset(), tensor.shape, tensor.stride()
        self._dtype = tensor.dtype

    def tensor(self) -> Tensor:
        if self._ref.expired():
            raise RefusedError("a replay reads memory that nobody keeps")
        storage = torch.UntypedStorage._new_with_weak_ptr(self._ref.cdata)  # type: ignore[attr-defined]
        return torch.empty(0, dtype=self._dtype).set_(storage, *self._place)


class CpuRecorder:
    """`fastsaddle.sim.run.step_graph.Recorder`; counts what it recorded."""

    def __init__(self) -> None:
        self.recordings = self.operators = 0

    def run(self, body: Callable[[], Tensor]) -> Tensor:
        return body()

    def record(self, body: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        tape = Tape()
        try:
            with _Reading(), tape:
                found = body()
        finally:
            tape.take_back()
        self.recordings += 1
        self.operators = len(tape.entries)
        return tape.replay, found


class _Reading(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READING:
            raise RefusedError(f"{func.__name__} waits for the device")
        return func(*args, **(kwargs or {}))


class Tape(TorchDispatchMode):
    """Operators in order. Tensors made on the way are kept, as a graph's pool is; all others are borrowed."""

    def __init__(self) -> None:
        super().__init__()
        # operator, arguments as leaves and their tree, new results by their place among the results
        self.entries: list[tuple[Any, list[Any], Any, dict[int, Tensor]]] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves, tree = tree_flatten((args, kwargs or {}))
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        _refuse(func, args)
        self._save(given)
        found = func(*args, **(kwargs or {}))
        places = {_memory(t) for t in given}
        fresh = {
            place: t
            for place, t in enumerate(tree_leaves(found))
            if isinstance(t, Tensor) and _memory(t) not in places
        }
        self._made.update(map(_memory, fresh.values()))
        if not func.is_view:
            held = [self._held(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            self.entries.append((func, held, tree, fresh))
        return found

    def _held(self, tensor: Tensor) -> Tensor | Borrowed:
        return tensor if _memory(tensor) in self._made else Borrowed(tensor)

    def _save(self, given: list[Tensor]) -> None:
        """Keep what memory from before holds: a recording changes none, and not every schema tells what is written."""
        for t in given:
            if _memory(t) not in self._made and _memory(t) not in self._before:
                storage = t.untyped_storage()
                self._before[_memory(t)] = storage, storage.clone()

    def take_back(self) -> None:
        # the latest first: storages of parameters lie in the buffer's, which may have been written in between
        for storage, before in reversed(self._before.values()):
            storage.copy_(before)
        self._before = {}

    def replay(self) -> None:
        with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for func, held, tree, fresh in self.entries:
                leaves = [leaf.tensor() if isinstance(leaf, Borrowed) else leaf for leaf in held]
                args, kwargs = tree_unflatten(leaves, tree)
                found = func(*args, **kwargs)
                _deliver(func, found, fresh)


def _deliver(func: Any, found: Any, recorded: dict[int, Tensor]) -> None:
    """Bring new results to where the recorded ones lie, whose addresses later operators know."""
    is_empty = func._schema.name.removeprefix("aten::") in EMPTY
    results = tree_leaves(found)
    for place, t in recorded.items():
        if is_empty:
            t.fill_(torch.nan if t.is_floating_point() else 1)
        else:
            t.copy_(results[place])


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _refuse(func: Any, args: Any) -> None:
    name = str(func)
    if torch.Tag.data_dependent_output in func.tags:
        raise RefusedError(f"{name} waits for the device")
    # an index has a shape of its own only where it is a mask
    is_index = func._schema.name in ("aten::index", "aten::index_put_", "aten::index_put")
    masks = [t for t in tree_leaves(args[1]) if _is_mask(t)] if is_index else []
    if masks or (torch.Tag.dynamic_output_shape in func.tags and not is_index):
        raise RefusedError(f"{name} waits for the device: its result has a shape of its own")
    if torch.Tag.nondeterministic_seeded in func.tags:
        raise RefusedError(f"{name} draws at random")
    if func._schema.name == "aten::lift_fresh":
        raise RefusedError(f"{name}: numbers of the host become a tensor")


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
