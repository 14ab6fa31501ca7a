"""torch's methods without its compiler's wrapper, where the compiler is not there, and only then."""

import functools
import sys
from types import MethodType
from typing import Any

import pytest
import torch

from fastsaddle.optimizer.eager import eagerly


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.randn(3, requires_grad=True)], lr=0.1)


@pytest.mark.parametrize("name", ["add_param_group", "state_dict", "load_state_dict"])
def test_the_wrapper_goes_where_no_compiler_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = getattr(optimizer(), name)
    monkeypatch.setitem(sys.modules, "torch._dynamo", sys)
    assert eagerly(method) == method
    monkeypatch.delitem(sys.modules, "torch._dynamo")
    inner = eagerly(method)
    assert isinstance(inner, MethodType)
    assert inner.__func__ is method.__wrapped__ and inner.__self__ is method.__self__


def test_wrappers_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    class Watched(torch.optim.SGD):
        @functools.wraps(torch.optim.SGD.state_dict)
        def state_dict(self) -> dict[str, Any]:
            return {"seen": True, **super().state_dict()}

    own = Watched([torch.randn(3, requires_grad=True)], lr=0.1)
    with monkeypatch.context() as without:
        without.delitem(sys.modules, "torch._dynamo")
        method = eagerly(own.state_dict)
    assert method == own.state_dict and method()["seen"]
