"""Methods of torch's optimizers without the import of torch's compiler, which takes longer than a short run."""

import sys
from collections.abc import Callable
from types import MethodType
from typing import Any

# where torch defines the wrapper
WRAPPER = "torch._compile"


def eagerly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that torch keeps `torch.compile` out of, without its wrapper where nobody has imported the compiler yet.

    The wrapper imports the compiler to mark what it holds. Until something else has, nothing is being compiled, and
    there is nobody to keep out. Wrappers of others stay.
    """
    if "torch._dynamo" in sys.modules or not isinstance(method, MethodType):
        return method
    function = method.__func__
    if getattr(function, "__globals__", {}).get("__name__") != WRAPPER:
        return method
    return MethodType(vars(function)["__wrapped__"], method.__self__)
