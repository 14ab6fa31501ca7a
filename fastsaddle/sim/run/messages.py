"""The compressors that a run can choose, and how their messages are used."""

import importlib
import inspect
import pkgutil
from functools import cache

from fastsaddle import compressors
from fastsaddle.comm.choco import Choco
from fastsaddle.compressors.base import Compressor
from fastsaddle.sim import choices

# models sent whole
NONE = "none"
# options without effect then
OF_COMPRESSION = ("gossip_order", "running_sum", "adaptive_gossip")


@cache
def names() -> tuple[str, ...]:
    """The built-in compressors, as options spell them: the files of their folder."""
    files = sorted(m.name for m in pkgutil.iter_modules(compressors.__path__))
    return tuple(n.replace("_", "-") for n in files if n != "base" and not n.startswith("_"))


def find(text: str) -> choices.Choice:
    """The compressor's class that `--compressor` names, or the user's own by import path, with its arguments.

    Raises ValueError for an unknown name, and for something that is no Compressor.
    """
    own = choices.own_choice(text)
    if own is not None:
        if not (inspect.isclass(own.function) and issubclass(own.function, Compressor)):
            raise ValueError(f"--compressor {text} must be a subclass of fastsaddle's Compressor")
        return own
    name, *arguments = choices.spelled(text, names()).split(":")
    if name not in names():
        raise ValueError(choices.unknown("--compressor", text, (NONE, *names())))
    module = importlib.import_module(f"{compressors.__name__}.{name.replace('-', '_')}")
    cls = next(
        v
        for v in vars(module).values()
        if inspect.isclass(v) and issubclass(v, Compressor) and v.__module__ == module.__name__
    )
    return choices.Choice(text, cls, tuple(arguments))


def build(text: str, order: str, running_sum: bool, adaptive: bool) -> Choco | None:
    """What an optimizer takes as its `compressor`; None sends models whole.

    Raises ValueError for arguments that the compressor refuses, and for options that have no use without one.
    """
    if text == NONE:
        if running_sum or adaptive:
            raise ValueError(
                f"--{'running-sum' if running_sum else 'adaptive-gossip'} needs a --compressor, got none"
            )
        return None
    return Choco(find(text)(), order, running_sum, adaptive)  # type: ignore[arg-type]
