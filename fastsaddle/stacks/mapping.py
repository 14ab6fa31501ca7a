"""A module run for many agents: mapped over them at once by torch.vmap, or agent after agent where it cannot be."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import (
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_map_with_path,
    tree_unflatten,
)

from fastsaddle.stacks.padding_rows import PaddingRows, padding_rows
from fastsaddle.stacks.settings import without_fast_path

Named = Mapping[str, Tensor]


class Arguments:
    """Arguments of a call for all agents: tensors, in trees of any depth, are stacked; the rest is passed as it is."""

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
        self.leaves, self.spec = tree_flatten((args, dict(kwargs or {})), _is_packed)
        self.tensors = [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    def check(self, agents: int) -> None:
        """Raise ValueError unless every tensor is `[agents, ...]`; packed sequences of all agents cannot be."""
        for number, leaf in enumerate(self.leaves):
            if _is_packed(leaf):
                raise ValueError(
                    f"inputs must be tensors, got a PackedSequence for {self._place(number)}: "
                    "pass padded inputs with their lengths and pack them in the module's forward"
                )
            if isinstance(leaf, Tensor) and leaf.shape[:1] != (agents,):
                raise ValueError(
                    f"inputs must be [{agents}, batch, ...], one batch an agent, "
                    f"got {tuple(leaf.shape)} for {self._place(number)}"
                )

    def with_tensors(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments with other tensors in place of its own."""
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        return tree_unflatten(leaves, self.spec)

    def of(self, agent: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """One agent's arguments."""
        return self.with_tensors([t[agent] for t in self.tensors])

    @property
    def kind(self) -> tuple[Any, ...]:
        """What may decide, beside a module's mode, which way it goes.

        Flags, whole numbers, strings and None count by value, floats and all others by type alone.
        """
        # with its type, as True equals 1
        simple = (bool, int, str, type(None))
        leaves = ((type(x), x if isinstance(x, simple) else None) for x in self.leaves)
        return str(self.spec), *leaves

    def _place(self, number: int) -> str:
        tree = tree_unflatten(list(range(len(self.leaves))), self.spec)
        path: tuple[Any, ...] = tree_flatten_with_path(tree)[0][number][0]
        part, key, *rest = path
        name = f"argument {key.idx}" if part.idx == 0 else str(key.key)
        return name + keystr(tuple(rest))


def _is_packed(part: Any) -> bool:
    return isinstance(part, PackedSequence)


def mapped(
    module: nn.Module, parameters: Named, buffers: dict[str, Tensor], arguments: Arguments
) -> Any:
    """`module` mapped over the leading dimension of all others; random layers draw differently for each agent.

    Buffers that `forward` assigns are put into `buffers`; those it changes in place are changed.

    Raises:
        ValueError: see `called`.
    """
    spec: Any = None
    is_none: list[bool] = []

    def one(p: dict[str, Tensor], b: dict[str, Tensor], tensors: list[Tensor]) -> Any:
        nonlocal spec, is_none
        given = dict(b)
        args, kwargs = arguments.with_tensors(tensors)
        leaves, spec = tree_flatten(called(module, p, b, args, kwargs))
        is_none = [leaf is None for leaf in leaves]
        assigned = {name: value for name, value in b.items() if value is not given[name]}
        return [leaf for leaf in leaves if leaf is not None], assigned

    with without_fast_path(), padding_rows(module):
        run = torch.vmap(one, randomness="different")
        found, assigned = run(dict(parameters), dict(buffers), arguments.tensors)
    buffers.update(assigned)
    outputs = iter(found)
    return tree_unflatten([None if none else next(outputs) for none in is_none], spec)


def looped(
    modules: Sequence[nn.Module],
    parameters: Named,
    buffers: dict[str, Tensor],
    arguments: Arguments,
) -> Any:
    """The same, agent after agent; all buffers are put into `buffers` anew.

    Args:
        modules: one for each agent, as `replica_of` makes them. After a pass with gradients it holds the agent's
            tensors, for what is computed again during backward (activation checkpointing).

    Raises:
        ValueError: the module returns something else than tensors, None, or trees of them; or see `called`.
    """
    rows = {name: p.unbind() for name, p in parameters.items()}
    found, kept = [], []
    for agent, module in enumerate(modules):
        named = {name: row[agent] for name, row in rows.items()}
        # rows of one tensor would count as changed together, which each agent's backward pass refuses
        its = {name: b[agent].clone() for name, b in buffers.items()}
        found.append(called(module, named, its, *arguments.of(agent)))
        kept.append(its)
        if torch.is_grad_enabled():
            for name, p in module.named_parameters():
                p.data = named[name].detach()
                p.requires_grad_(parameters[name].requires_grad)
            for name, b in module.named_buffers():
                # a copy: what is computed again may write into it
                b.data = its[name].detach().clone()
    for name in buffers:
        buffers[name] = torch.stack([its[name] for its in kept])
    return tree_map_with_path(_stacked, *found)


def _stacked(path: tuple[Any, ...], *leaves: Any) -> Tensor | None:
    if all(leaf is None for leaf in leaves):
        return None
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            at = f" for outputs{keystr(path)}" if path else ""
            raise ValueError(f"a module must return tensors or trees of them, got {type(leaf)}{at}")
    return torch.stack(leaves)


def called(
    module: nn.Module,
    parameters: Named,
    buffers: dict[str, Tensor],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """One agent's `module`, with these parameters and buffers in place of its own.

    Buffers that `forward` assigns are put into `buffers`, detached and in memory of their own.

    Raises:
        ValueError: `forward` assigns a parameter, or a buffer of another shape, dtype or device.
    """
    given = {**parameters, **buffers}
    values = dict(given)
    outputs = functional_call(module, values, args, dict(kwargs))
    for name in [name for name, value in values.items() if value is not given[name]]:
        if name in parameters:
            raise ValueError(f"forward must not assign parameters, it does so with {name}")
        buffers[name] = assigned_value(name, given[name], values[name])
    return outputs


def assigned_value(name: str, given: Tensor | None, value: Tensor | None) -> Tensor:
    """What `forward` assigned to buffer `name`, detached and in memory of its own.

    Raises:
        ValueError: it is not like the buffer that was given.
    """
    if given is None:
        raise ValueError(
            f"buffers must be registered with a tensor, forward makes {name}, which had none"
        )
    own, its = map(_description, (given, value))
    if value is None or own != its:
        raise ValueError(
            f"buffers must keep shape, dtype and device, forward assigns {its} to {name}, which was {own}"
        )
    return value.detach().clone()


def _description(value: Tensor | None) -> str:
    if value is None:
        return "None"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"


def copy_of(module: nn.Module) -> nn.Module:
    """A copy that shares the module's parameters and buffers, for calls that bring their own."""
    shared = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def replica_of(module: nn.Module) -> nn.Module:
    """A copy for one agent's passes: its parameters and buffers are its own objects, in the module's memory."""
    own: dict[int, Tensor] = {id(b): b.detach() for b in module.buffers()}
    own |= {id(p): nn.Parameter(p.detach()) for p in module.parameters()}
    replica = copy.deepcopy(module, own)
    for p in replica.parameters():
        p.register_post_accumulate_grad_hook(_refuse_gradient)
    return replica


def _refuse_gradient(_: Tensor) -> None:
    # the stack's parameters would get none
    raise ValueError("activation checkpointing in a stack needs use_reentrant=False")


class Trial(NamedTuple):
    """What a call does: why torch.vmap cannot map it, None where it can; the buffers that `forward` assigns."""

    obstacle: str | None = None
    assigned: frozenset[str] = frozenset()


def trial(
    module: nn.Module,
    parameters: Named,
    buffers: Named,
    arguments: Arguments,
    surroundings: Callable[[], AbstractContextManager[Any]],
) -> Trial | None:
    """Run one agent, forward and backward, to learn how all are to be run; the obstacle names its layer and error.

    Parameters, buffers, inputs and random states are left as they are. Where the plain module fails too, mapping is
    not to blame. None while a CUDA graph is captured: nothing can be tried then.

    Args:
        module: is called, and may keep what it was called with.
        parameters, buffers, arguments: stacked `[agents, ...]`.
        surroundings: makes the context of a pass.

    Raises:
        ValueError: `forward` makes a buffer that was None, or was not there.
    """
    devices = [p.device for p in parameters.values() if p.is_cuda]
    if devices and torch.cuda.is_current_stream_capturing():
        return None
    assigned: set[str] = set()

    def attempt(run: Callable[..., Any]) -> Exception | None:
        named = {n: p.detach()[:1].requires_grad_(p.requires_grad) for n, p in parameters.items()}
        given = {name: b[:1].clone() for name, b in buffers.items()}
        its = dict(given)
        tensors = [t[:1].clone() for t in arguments.tensors]
        try:
            with surroundings():
                args, kwargs = arguments.with_tensors(tensors)
                outputs = run(module, named, its, Arguments(args, kwargs))
            _backward(outputs, [p for p in named.values() if p.requires_grad])
        # whatever a module may raise
        except Exception as error:
            return error
        finally:
            assigned.update(name for name in its if its[name] is not given[name])
        return None

    with torch.random.fork_rng(devices[:1]), no_new_buffers(module):
        # what `mapped` sees to itself does not come up here
        with PaddingRows() as rest:
            error = attempt(mapped)
        if error is None and rest.seen:
            said = f"{type(module).__name__}: padding_idx of an embedding outside nn.Embedding"
            return Trial(said, frozenset(assigned))
        if error is None or attempt(_first) is not None:
            return Trial(None, frozenset(assigned))
        with _entered(module) as names:
            attempt(mapped)
    at = names[-1] if names else type(module).__name__
    return Trial(f"{at}: {first_sentence(error)}", frozenset(assigned))


def _first(
    module: nn.Module, parameters: Named, buffers: dict[str, Tensor], arguments: Arguments
) -> Any:
    """The first agent's plain module."""
    named, given = ({name: t[0] for name, t in of.items()} for of in (parameters, buffers))
    its = dict(given)
    outputs = called(module, named, its, *arguments.of(0))
    buffers.update({name: b[None] for name, b in its.items() if b is not given[name]})
    return outputs


def _backward(outputs: Any, wanted: list[Tensor]) -> None:
    ends = [t.sum() for t in tree_leaves(outputs) if isinstance(t, Tensor) and t.requires_grad]
    if ends and wanted:
        torch.autograd.grad(ends, wanted, allow_unused=True)


@contextmanager
def no_new_buffers(module: nn.Module) -> Iterator[None]:
    """Take away buffers that come up inside the block where there were none, and raise ValueError for the first."""
    before = buffers_of_layers(module)
    made = []
    try:
        yield
    finally:
        made = put_back(before)
    for change in made:
        assigned_value(*change)


# a layer's name, its buffers, and what they were
LayerBuffers = tuple[str, dict[str, Tensor | None], dict[str, Tensor | None]]


def buffers_of_layers(module: nn.Module) -> list[LayerBuffers]:
    """What each layer's buffers are now, for `put_back`."""
    return [(path, layer._buffers, dict(layer._buffers)) for path, layer in module.named_modules()]


def put_back(before: Sequence[LayerBuffers]) -> list[tuple[str, Tensor | None, Tensor | None]]:
    """Undo what was assigned to buffers since: each one's name, what it was and is again, and what was assigned."""
    assigned = []
    for path, now, own in before:
        changed = [leaf for leaf, value in now.items() if value is not own.get(leaf)]
        assigned += [(f"{path}.{leaf}".lstrip("."), own.get(leaf), now[leaf]) for leaf in changed]
        if changed:
            now.clear()
            now.update(own)
    return assigned


@contextmanager
def _entered(module: nn.Module) -> Iterator[list[str]]:
    """The layers that were entered and not left: after an error the last is the one that raised it."""
    names: list[str] = []
    hooks = []
    for name, layer in module.named_modules():
        kind = type(layer).__name__
        at = f"{name} ({kind})" if name else kind

        def enter(*_: Any, at: str = at) -> None:
            names.append(at)

        def leave(*_: Any) -> None:
            names.pop()

        # before the module's own hooks, which may raise it
        hooks.append(layer.register_forward_pre_hook(enter, prepend=True))
        hooks.append(layer.register_forward_hook(leave))
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()


def first_sentence(error: Exception) -> str:
    """An error's message, cut to what fits into a line."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
