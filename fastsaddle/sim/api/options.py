"""Options that are given to a function, by the names and types of the command line's."""

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from fastsaddle.sim import json_files
from fastsaddle.sim.comparison.grid import read_value
from fastsaddle.sim.config import DEFAULTS, NOT_STORED, TrainConfig

PATHS = ("data_dir", "out", "resume")


def check_names(function: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise TypeError for an option that `function` does not have, with one that is spelled alike."""
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"; {near[0]} is one" if near else ""
            raise TypeError(f"{function} has no option {name!r}{meant}")


def config(function: str, options: Mapping[str, Any]) -> TrainConfig:
    """The options of a run.

    Raises:
        TypeError: an option that does not exist.
        ValueError: a value of another type.
    """
    check_names(function, options, tuple(DEFAULTS))
    return TrainConfig(**{name: value(name, given) for name, given in options.items()})


def value(name: str, given: Any) -> Any:
    """An option's value as `TrainConfig` holds it. Raises ValueError for one of another type."""
    if name in PATHS:
        return path(name, given)
    given = plain(given)
    if given is not None and not isinstance(given, (bool, int, float, str)):
        raise ValueError(
            f"{name} must be text, a number or a flag, as config.json can hold it, got {given!r}: "
            "pieces of your own are file.py:Name"
        )
    if name in NOT_STORED:
        kinds = get_type_hints(TrainConfig)
        check_kinds({name: given}, kinds)
        return given
    return read_value(name, given)


def path(name: str, given: Any) -> Path | None:
    """A path that is given as text or as a path. Raises ValueError for anything else."""
    given = plain(given)
    if given is not None and not isinstance(given, str):
        raise ValueError(f"{name} must be a path, got {given!r}")
    return None if given is None else Path(given)


def plain(given: Any) -> Any:
    """Paths as text, numbers and flags of NumPy as those of Python."""
    if isinstance(given, os.PathLike):
        return os.fspath(given)
    return given.item() if isinstance(given, np.generic) else given


def check_kinds(given: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raise ValueError for a value that is not of its name's type."""
    json_files.check(given, kinds, (), "options", closed=True)


def texts(options: Mapping[str, Any]) -> list[str]:
    """The options of a grid, each with one value or several (a list, a range, an array), as the command line writes
    them.
    """
    words = []
    for name, given in options.items():
        several = isinstance(given, Iterable) and not isinstance(given, (str, Path))
        values = [plain(v) for v in given] if several else [plain(given)]
        if not values or any(v is None for v in values):
            raise ValueError(
                f"{name} needs at least one value and none that is None, got {given!r}"
            )
        written = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
        words += [f"--{name.replace('_', '-')}", *written]
    return words


def names() -> tuple[str, ...]:
    """All options of a run."""
    return tuple(field.name for field in fields(TrainConfig))
