"""A module run for many agents: mapped over them at once by torch.vmap, or agent after agent where it cannot be."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

Named = Mapping[str, Tensor]


def mapped(module: nn.Module, parameters: Named, buffers: Named, inputs: Tensor) -> Any:
    """`module` mapped over the leading dimension of all others; random layers draw differently for each agent."""

    def one(p: dict[str, Tensor], b: dict[str, Tensor], batch: Tensor) -> Any:
        return functional_call(module, (p, b), (batch,))

    return torch.vmap(one, randomness="different")(dict(parameters), dict(buffers), inputs)


def looped(module: nn.Module, parameters: Named, buffers: Named, inputs: Tensor) -> Any:
    """The same, agent after agent.

    Raises:
        ValueError: the module returns something else than tensors or trees of them.
    """
    rows = {name: p.unbind() for name, p in parameters.items()}
    found = []
    for agent, batch in enumerate(inputs):
        named = {name: row[agent] for name, row in rows.items()}
        its_buffers = {name: b[agent] for name, b in buffers.items()}
        found.append(functional_call(module, (named, its_buffers), (batch,)))
    return tree_map(_stacked, *found)


def _stacked(*leaves: Any) -> Tensor:
    if not isinstance(leaves[0], Tensor):
        raise ValueError(f"a module must return tensors or trees of them, got {type(leaves[0])}")
    return torch.stack(leaves)


def copy_of(module: nn.Module) -> nn.Module:
    """A copy that shares the module's parameters and buffers, for calls that bring their own."""
    shared = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def obstacle(
    module: nn.Module,
    parameters: Named,
    buffers: Named,
    inputs: Tensor,
    surroundings: Callable[[], AbstractContextManager[Any]],
) -> str | None:
    """Why torch.vmap cannot map `module`: its layer and the error, in one line; None where it can.

    One agent is tried, forward and backward. Parameters, buffers, inputs and random states are left as they are. Where
    the plain module fails too, mapping is not to blame: None. While a CUDA graph is captured nothing can be tried.

    Args:
        module: is called, and may keep what it was called with.
        parameters, buffers, inputs: stacked `[agents, ...]`.
        surroundings: makes the context of a pass.
    """
    if inputs.is_cuda and torch.cuda.is_current_stream_capturing():
        return None

    def attempt(run: Callable[..., Any]) -> Exception | None:
        named = {n: p.detach()[:1].requires_grad_(p.requires_grad) for n, p in parameters.items()}
        its_buffers = {name: b[:1].clone() for name, b in buffers.items()}
        try:
            with surroundings():
                outputs = run(module, named, its_buffers, inputs[:1].clone())
            _backward(outputs, [p for p in named.values() if p.requires_grad])
        # whatever a module may raise
        except Exception as error:
            return error
        return None

    with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
        error = attempt(mapped)
        if error is None or attempt(_first) is not None:
            return None
        with _entered(module) as names:
            attempt(mapped)
    return f"{names[-1] if names else type(module).__name__}: {_first_sentence(error)}"


def _first(module: nn.Module, parameters: Named, buffers: Named, inputs: Tensor) -> Any:
    """The first agent's plain module."""
    mine = tuple({name: t[0] for name, t in of.items()} for of in (parameters, buffers))
    return functional_call(module, mine, (inputs[0],))


def _backward(outputs: Any, wanted: list[Tensor]) -> None:
    ends = [t.sum() for t in tree_leaves(outputs) if isinstance(t, Tensor) and t.requires_grad]
    if ends and wanted:
        torch.autograd.grad(ends, wanted, allow_unused=True)


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


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
