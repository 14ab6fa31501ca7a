"""The contract of a tracker: whoever writes a run down elsewhere, found by name, or the user's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastsaddle.sim.observer import Observer

State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Tracked:
    """What a tracker is told of the run that begins.

    Args:
        directory: the run's directory, where a tracker may keep a file or a folder named after itself.
        options: the content of config.json: every option with its resolved value, the machine and versions.
        step: steps done before, 0 for a new run. Evaluations after it are reported again.
    """

    directory: Path
    options: dict[str, Any]
    step: int


class Tracker(Observer):
    """An observer that is opened before a run and closed after it. Your own is a subclass.

    `--track file.py:Name` uses it, with arguments of its constructor after further colons. A package offers it by name
    as an entry point of the group `fastsaddle.trackers`. The constructor is called before anything is written, and must
    say what is missing. An error of another method is reported once, and the run goes on without the tracker. With
    several processes only the first one tracks.

    Example:
        >>> import fastsaddle as fs
        >>> class Last(fs.sim.Tracker):
        ...     def begin(self, run):
        ...         self.agents = run.options["agents"]
        ...
        ...     def end(self, state):
        ...         print(self.agents, state)
        >>> run = fs.sim.train(agents=4, steps=4, out="example", observers=[Last()], quiet=True)
        4 finished
    """

    def begin(self, run: Tracked) -> None:
        """Called before the first step.

        Args:
            run: what the tracker may know of the run.
        """

    def end(self, state: State) -> None:
        """Called after the last step.

        Args:
            state: "finished"; "stopped", to go on later; or "failed".
        """
