"""Some peers import torchvision, which does not load beside a torch built for CPUs only."""

import sys
from unittest.mock import MagicMock

MODULES = ("", ".models", ".datasets", ".datasets.utils", ".transforms")


def stub_where_broken() -> str:
    """Put an empty stand-in where torchvision cannot be imported; returns what to say about it."""
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError):
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules.update({f"torchvision{name}": MagicMock() for name in MODULES})
        return "with a stub for torchvision, which cannot be imported here and is not used"
    return ""
