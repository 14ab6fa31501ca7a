"""What must be equal on all ranks of an optimizer over processes, as text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import partial
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch

from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.kernels.op import ops, use_backend
from fastsaddle.optimizer.hyperparameters import TAKEN
from fastsaddle.ranks.fingerprint import agree, refuse
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.transposition import Transposition

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer

# parts within parts
DEPTH = 6
REQUIRES_GRAD = attrgetter("requires_grad")

# of each parameter of each group, whether it moves
Form = tuple[tuple[bool, ...], ...]


@contextmanager
def everywhere(optimizer: Optimizer, placement: Placement | None) -> Iterator[None]:
    """Inside the block an optimizer is made as far as it is described; behind it all ranks compare what they have made.

    Raises:
        ValueError: see `fastsaddle.ranks.fingerprint.agree`.
    """
    if placement is None:
        yield
        return
    gather = Transposition(placement).texts
    try:
        yield
    except BaseException as error:
        refuse(gather, error)
        raise
    agreement = agree(gather, facts_of(optimizer))
    # not the optimizer: what is noted at the end must not keep its buffers until then
    counter = optimizer.live.counter
    optimizer.communicator.join(agreement, lambda: int(counter.rounds))
    optimizer.live.compared = form_of(optimizer)


def compare(optimizer: Optimizer, together: bool = False) -> None:
    """Before an exchange: where groups have changed here since all ranks compared them, or a state was loaded.

    Args:
        optimizer: whose groups and state.
        together: whether all ranks do this to tell each other something, and do not step.

    Raises:
        ValueError: all have changed something, on every rank: what differs, and where; nothing has moved.
        PeerError: not all have.
    """
    live, now = optimizer.live, form_of(optimizer)
    if optimizer.placement is None or (now == live.compared and not live.is_loaded):
        return
    cause = "a state was loaded" if now == live.compared else change(live.compared, now)
    optimizer.communicator.compare(
        f"{cause} there, not everywhere", partial(facts_of, optimizer), together
    )
    if live.is_loaded:
        # whether it is old depends on what was done in which order here
        optimizer.mark_loaded()
    live.compared, live.is_loaded = now, False


def form_of(optimizer: Optimizer) -> Form:
    return tuple(tuple(map(REQUIRES_GRAD, group["params"])) for group in optimizer.param_groups)


def change(before: Form, now: Form) -> str:
    """What has changed, in few words."""
    if len(before) != len(now):
        return f"the number of parameter groups is {len(now)}"
    for index, (group, group_now) in enumerate(zip(before, now, strict=True)):
        if len(group) != len(group_now):
            return f"parameter group {index} has {len(group_now)} parameters"
        for number, (moved, moves) in enumerate(zip(group, group_now, strict=True)):
            if moved != moves:
                how = "free" if moves else "frozen"
                return f"parameter {number} of parameter group {index} is {how}"
    raise AssertionError("nothing has changed")


def facts_of(optimizer: Optimizer) -> dict[str, str]:
    """Name -> value, the most telling first. Tensors of a number for each agent are left out."""
    here = optimizer.placement
    assert here is not None
    groups = list(enumerate(optimizer.param_groups))
    facts = {
        "the version of fastsaddle": import_module("fastsaddle").__version__,
        "counts of agents": str(list(here.counts)),
        "overlap": here.overlap,
        "the optimizer": named(type(optimizer)),
        "the number of parameter groups": str(len(groups)),
        "whether a state was loaded since the last step": str(optimizer.live.is_loaded),
    }
    if optimizer.counts_rounds:
        facts["the number of steps done"] = str(int(optimizer.rounds))
    for index, group in groups:
        facts |= {
            f"{name} of parameter group {index}": described(value)
            for name, value in group.items()
            if name not in TAKEN and not _is_an_agents(value)
        }
    facts |= {
        "gradient": described(optimizer.gradient),
        "rule": described(optimizer.rule),
        "communicator": described(optimizer.plan),
        "topology": described(optimizer.topology),
        "nonfinite": optimizer.nonfinite,
        "state_dtype": str(optimizer.state_dtype),
        "seed": str(optimizer.seed),
        "the type of device": optimizer.parameters[0].device.type,
        "the backend of the kernels": _backend(optimizer),
    }
    for index, group in groups:
        where = f"of parameter group {index}"
        facts[f"the number of parameters {where}"] = str(len(group["params"]))
        for number, p in enumerate(group["params"]):
            shape = list(p.shape[1:] if optimizer.stacked else p.shape)
            moves = "" if p.requires_grad else ", frozen"
            facts[f"shape and dtype of parameter {number} {where}"] = f"{shape} {p.dtype}{moves}"
    return facts


def described(value: Any, depth: int = DEPTH) -> str:
    """A value by its type and what it holds; of objects that are not this package's the type alone."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, torch.Tensor):
        return "a tensor" if _is_an_agents(value) else repr(value.item())
    if isinstance(value, Topology):
        digest = hashlib.sha256(value.W.contiguous().numpy().tobytes()).hexdigest()
        return f"{value.name}, {value.agents} agents, SHA-256 of W {digest[:16]}"
    if isinstance(value, Enum | torch.dtype | torch.device | torch.Size):
        return str(value)
    if isinstance(value, type) or callable(getattr(value, "__get__", None)):
        return named(value)
    if depth == 0 or isinstance(value, Placement):
        return named(type(value))
    if isinstance(value, Mapping):
        inside = (f"{k}: {described(v, depth - 1)}" for k, v in value.items())
        return f"{{{', '.join(inside)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(described(v, depth - 1) for v in value)}]"
    if type(value).__module__.partition(".")[0] != __name__.partition(".")[0]:
        return _number(value)
    held = getattr(value, "__dict__", {})
    inside = (f"{k}={described(v, depth - 1)}" for k, v in sorted(held.items()) if k[0] != "_")
    return f"{type(value).__name__}({', '.join(inside)})"


def named(value: Any) -> str:
    """A class's or function's full name."""
    return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _number(value: Any) -> str:
    """numpy's numbers as such, anything else by its type."""
    return repr(value.item()) if hasattr(value, "item") else named(type(value))


def _is_an_agents(value: Any) -> bool:
    """Whether a hyperparameter may differ from rank to rank: a tensor of one number an agent."""
    return isinstance(value, torch.Tensor) and value.dim() > 0


def _backend(optimizer: Optimizer) -> str:
    with use_backend(optimizer.backend):
        return ops()["mix_neighbors"].choice(optimizer.parameters[0].device)
