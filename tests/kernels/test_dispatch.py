"""Ops run without torch's dispatcher where nobody looks; whoever watches, maps or differentiates still meets them."""

from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import fastsaddle as fs
from fastsaddle.kernels.mix_dense import mix_dense
from fastsaddle.kernels.op import is_plain

NAMES = {"fastsaddle::agent_norm", "fastsaddle::gossip_step"}


class Seen(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


class Own(Tensor):
    """A tensor with ways of its own."""


def step(seed: int) -> Tensor:
    models = nn.Parameter(torch.randn(5, 40, generator=torch.Generator().manual_seed(seed)))
    optimizer = fs.DSGDm([models], lr=0.1, topology="ring")
    models.grad.copy_(models.detach())
    optimizer.step()
    return models.detach()


def test_modes_see_each_op_and_change_no_bit(seed: int) -> None:
    with Seen() as seen:
        watched = step(seed)
    assert seen.names >= NAMES
    assert torch.equal(watched, step(seed))


def test_profilers_see_each_op_and_the_step(seed: int) -> None:
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step(seed)
    names = {event.name for event in found.events()}
    assert names >= {*NAMES, "Optimizer.step#DSGDm.step"}


def test_what_is_plain() -> None:
    rows = torch.randn(2, 32)
    assert not is_plain((rows,)), "something may be differentiated"
    with torch.no_grad():
        assert is_plain((rows, nn.Parameter(rows), None, 1, 0.5, True))
        assert not is_plain((rows, rows.as_subclass(Own)))
        mapped = []
        torch.vmap(lambda row: mapped.append(is_plain((row,))) or row)(rows)
        assert mapped == [False]
        for mode in (Seen(), TorchFunctionMode()):
            with mode:
                assert not is_plain((rows,))


def test_hooks_fire_once_for_a_subclass_with_its_own_step(seed: int) -> None:
    class Twice(fs.DSGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            return super().step(closure)

    models = nn.Parameter(torch.randn(5, 40, generator=torch.Generator().manual_seed(seed)))
    optimizer = Twice([models], lr=0.1, topology="ring")
    fired: list[str] = []
    optimizer.register_step_post_hook(lambda *_: fired.append("after"))
    optimizer.step()
    assert fired == ["after"]


def test_what_torch_alone_can_read_is_not_plain(seed: int) -> None:
    rows = torch.randn(3, 32, generator=torch.Generator().manual_seed(seed))
    W, negated, out = torch.eye(3), torch._neg_view(rows), torch.empty(3, 32)
    with torch.no_grad():
        assert not is_plain((negated,)) and not is_plain((rows.to("meta"),))
        mix_dense(negated, W, out)
        assert torch.equal(out, -rows)
        mix_dense(*(t.to("meta") for t in (rows, W, out)))

        def mixed(rows: Tensor) -> Tensor:
            out = torch.empty_like(rows)
            mix_dense(rows, W, out)
            return out

        traced = torch.jit.trace(mixed, (rows,), check_trace=False)
        assert torch.equal(traced(2 * rows), 2 * rows)


def test_hooks_fire_where_a_step_was_wrapped_by_others(seed: int) -> None:
    class Wrapped(fs.DSGD):
        @wraps(fs.DSGD.step)
        def step(self, *args: Any, **kwargs: Any) -> Any:
            return super().step(*args, **kwargs)

    models = nn.Parameter(torch.randn(5, 40, generator=torch.Generator().manual_seed(seed)))
    optimizer = Wrapped([models], lr=0.1, topology="ring")
    fired: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: fired.append("before"))
    optimizer.step()
    assert fired == ["before"]
