"""The algorithms that a run can choose, and which options each of them takes."""

import inspect
from collections.abc import Iterable
from typing import Any

from torch.nn import Parameter

import fastsaddle as fs
from fastsaddle.optimizer import DecentralizedOptimizer
from fastsaddle.sim import choices

# options that only some algorithms take, by the name that both the option and the constructor have
PARTICULAR = ("rho", "adaptive", "momentum", "qg_momentum", "nesterov")


def names() -> tuple[str, ...]:
    """The built-in algorithms, as options spell them: every public optimizer, in small letters."""
    return tuple(sorted(_public()))


def find(text: str) -> choices.Choice:
    """The optimizer's class that `--algorithm` names, or the user's own by import path.

    Raises ValueError for an unknown name, and for something that is no DecentralizedOptimizer.
    """
    if text in _public():
        return choices.Choice(text, _public()[text])
    own = choices.own_choice(text)
    if own is None:
        raise ValueError(choices.unknown("--algorithm", text, names()))
    if not (inspect.isclass(own.function) and issubclass(own.function, DecentralizedOptimizer)):
        raise ValueError(f"--algorithm {text} must be a subclass of DecentralizedOptimizer")
    return own


def takes(text: str, option: str) -> bool:
    """Whether an algorithm has use for an option: of those that only some take, what its constructor names."""
    return option not in PARTICULAR or option in find(text).names()


def build(
    text: str, params: Iterable[Parameter] | list[dict[str, Any]], **options: Any
) -> DecentralizedOptimizer:
    """The optimizer over stacked parameters; options that it does not take are left out."""
    return find(text)(params=params, **options)


def _public() -> dict[str, type[DecentralizedOptimizer]]:
    classes = (getattr(fs, name) for name in fs.__all__)
    return {
        cls.__name__.lower(): cls
        for cls in classes
        if inspect.isclass(cls) and issubclass(cls, DecentralizedOptimizer)
    }
