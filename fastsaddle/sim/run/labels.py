"""What people read of own choices: a label, never the folder that their file lies in."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastsaddle.sim import choices
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run import faults


class Labels:
    """The labels of all own choices of the runs that are shown together.

    A label is the `label` of the class or function, else its name; a file of data has its name. The arguments follow
    after colons. Where different choices have the same, each is followed by its file: `Net (a.py)`, `Net (b.py)`.
    """

    def __init__(self, configs: Iterable[TrainConfig]) -> None:
        found = list(configs)
        self._labels = {name: _labels(getattr(c, name) for c in found) for name in choices.OPTIONS}

    def of(self, name: str, value: Any) -> Any:
        """An option's value as people read it; what is no own choice is left as it is."""
        if name == "faults":
            return faults.label(value)
        if name not in self._labels or value is None:
            return value
        key = choices.absolute(value)
        return self._labels[name].get(key) or label(key)


def of_agents(count: int) -> str:
    """So many agents, in words."""
    return f"{count:,} agent{'s' if count > 1 else ''}"


def of_engine(engine: str, threads: int | None) -> str:
    """Who takes gradients, on how many threads, in words: "threads" is the name of an engine."""
    return f'engine "{engine}" on {threads} CPU thread{"s" if threads != 1 else ""}'


def of_gradient(gradient: str) -> str:
    """What a run's gradients are, by their label; nothing where they are its algorithm's own."""
    if gradient == "auto":
        return ""
    return f"{'SAM' if gradient == 'sam' else gradient} gradients"


def label(text: str) -> str:
    """A choice's label where nothing else has the same; built-in ones are their own."""
    if choices.is_data_file(text):
        return Path(text).name
    match = choices.OWN.fullmatch(text)
    if match is None:
        return text
    name = match["name"]
    try:
        own = choices.own_choice(text)
        given = getattr(own and own.function, "label", None)
    # whatever the user's code raises: finished runs are shown without it
    except Exception:
        given = None
    shown = given if isinstance(given, str) and given else name
    return shown if match["rest"] is None else f"{shown}:{match['rest']}"


def _labels(texts: Iterable[str | None]) -> dict[str, str]:
    """A label for each of several choices, all different; those of the user by their absolute text."""
    distinct = dict.fromkeys(choices.absolute(text) for text in texts if text is not None)
    sharing: dict[str, list[str]] = {}
    for text in distinct:
        sharing.setdefault(label(text), []).append(text)
    return {
        text: _told_apart(text, shown, alike) for shown, alike in sharing.items() for text in alike
    }


def _told_apart(text: str, shown: str, alike: list[str]) -> str:
    source = choices.source_of(text)
    if source is None or len(alike) == 1:
        return shown
    others = [choices.source_of(other) or "" for other in alike if other != text]
    parts = Path(source).parts
    for count in range(1, len(parts)):
        end = parts[-count:]
        if not any(Path(other).parts[-count:] == end for other in others):
            return f"{shown} ({'/'.join(end)})"
    return f"{shown} ({Path(source).name})"
