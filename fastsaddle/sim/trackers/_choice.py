"""Which trackers a run has: built-in ones, those of installed packages, and the user's own."""

import importlib
import inspect
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from fastsaddle.sim import choices
from fastsaddle.sim.tracker import Tracker

NONE = "none"
# of packages that offer a tracker: its name, and where it is
GROUP = "fastsaddle.trackers"


def names_in(text: str) -> tuple[str, ...]:
    """The trackers of `--track`, each once: `tensorboard,wandb`."""
    known = choices.names("trackers")
    parts = [choices.spelled(part.strip(), known) for part in text.split(",") if text != NONE]
    if not all(parts):
        raise ValueError(f"--track must be names with commas between them, or none, got {text!r}")
    choices.check_once(parts, "--track")
    return tuple(parts)


def find(text: str) -> choices.Choice:
    """The tracker's class, with its arguments.

    Raises ValueError for an unknown name, and for something that is no Tracker; ImportError for a package that offers
    one and cannot be imported.
    """
    own = choices.own_choice(text)
    if own is None:
        own = _named(text)
    if not (inspect.isclass(own.function) and issubclass(own.function, Tracker)):
        raise ValueError(f"--track {text} must be a subclass of fs.sim.Tracker")
    return own


def _named(text: str) -> choices.Choice:
    built_in = choices.names("trackers")
    name, *arguments = text.split(":")
    if name in built_in:
        module = importlib.import_module(f"fastsaddle.sim.trackers.{name}")
        cls = next(
            v
            for v in vars(module).values()
            if inspect.isclass(v) and issubclass(v, Tracker) and v.__module__ == module.__name__
        )
        return choices.Choice(text, cls, tuple(arguments))
    offered = installed()
    if name not in offered:
        raise ValueError(choices.unknown("--track", name, (NONE, *built_in, *sorted(offered))))
    return choices.Choice(text, offered[name].load(), tuple(arguments))


def installed() -> dict[str, EntryPoint]:
    """What installed packages offer, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def absolute(text: str) -> str:
    """The same with whole paths of the user's files."""
    return ",".join(map(choices.absolute, names_in(text))) or NONE


def made(texts: Iterable[str]) -> list[Tracker]:
    """Trackers by their texts. Raises ValueError for an unknown one, ImportError for one that lacks a package."""
    return [find(text)() for text in texts]
