"""The contract of a tracker: whoever writes a run down elsewhere, found by name, or the user's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastsaddle.sim.observer import Observer

State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Tracked:
    """What a tracker is told of the run that begins.

    Attributes:
        directory: the run's own, where a tracker may keep a file or a folder that is named like it.
        options: config.json's content: every option with its resolved value, machine and versions.
        step: steps done before; 0 for a new run. Lines of evaluations after it come again.
    """

    directory: Path
    options: dict[str, Any]
    step: int


class Tracker(Observer):
    """An observer that is opened before a run and closed after it. Your own inherits from it.

    `--track file.py:Name` takes it, with arguments of its constructor after further colons; a package offers it by name
    as an entry point of the group `fastsaddle.trackers`. What is missing must be said by the constructor, which is
    called before anything is written. What another method raises is told, once, and the run goes on without it. Of
    several processes the first alone tracks.
    """

    def begin(self, run: Tracked) -> None:
        """Before the first step."""

    def end(self, state: State) -> None:
        """After the last: the run is done, was stopped to go on later, or has failed."""
