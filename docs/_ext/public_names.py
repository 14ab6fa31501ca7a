"""Public names: what the modules below list in `__all__`. Each object is documented once, under its shortest name."""

from importlib import import_module
from types import ModuleType
from typing import Any

import fastsaddle

# the root first: what it lists is documented as `fastsaddle.NAME`
MODULES = (
    "gradients",
    "rules",
    "comm",
    "compressors",
    "topology",
    "ranks",
    "sharpness",
    "metrics",
    "integrations",
    "sim",
    "sim.data",
)


def spellings() -> dict[str, Any]:
    """Every way to write a public name that is no module, such as fastsaddle.Choco and fastsaddle.comm.Choco."""
    modules = {"fastsaddle": fastsaddle}
    for name in MODULES:
        found = getattr(fastsaddle, name, None) or import_module(f"fastsaddle.{name}")
        modules[f"fastsaddle.{name}"] = found
    return {
        f"{path}.{name}": getattr(module, name)
        for path, module in modules.items()
        for name in module.__all__
        if not isinstance(getattr(module, name), ModuleType)
    }


def names() -> dict[str, str]:
    """Each spelling with the one that the object is documented under."""
    first: dict[int, str] = {}
    return {path: first.setdefault(id(obj), path) for path, obj in spellings().items()}


def documented() -> dict[str, Any]:
    """Public objects by the name that they are documented under."""
    found = spellings()
    return {path: found[path] for path in dict.fromkeys(names().values())}
