"""The faults that a run can choose, and the record of what fell in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastsaddle.graphs import fault_log
from fastsaddle.graphs.faults import Faults, Faulty
from fastsaddle.graphs.schedule import LOOKED_AT, Schedule
from fastsaddle.sim.run.whole_files import sync, write_synced

NONE = "none"
LOG = "log:"
FILE = "faults.jsonl"
NUMBERS: dict[str, Callable[[str], Any]] = {"links": float, "agents": float, "seed": int}
RULE = (
    "--faults must be none, links:0.1,agents:0.01,slow:3x4,seed:7 (agent 3 in every 4th round alone; each part may be "
    "left out) or log:FILE"
)


def parse(text: str, seed: int) -> Faults | None:
    """What `--faults` names; None where nothing fails. Draws without a seed of their own take the run's.

    Raises ValueError for anything else, and for numbers out of range.
    """
    if text == NONE:
        return None
    if text.startswith(LOG):
        return Faults(log=Path(text.removeprefix(LOG)))
    found: dict[str, Any] = {"seed": seed}
    seen, slow = set(), {}
    for part in text.split(","):
        name, _, value = part.strip().partition(":")
        try:
            if name == "slow":
                agent, each = map(int, value.split("x"))
                name = f"slow:{agent}"
                slow[agent] = each
            else:
                found[name] = NUMBERS[name](value)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{RULE}, got {part!r} in {text!r}") from error
        if name in seen:
            raise ValueError(f"--faults {text}: {name} is given twice")
        seen.add(name)
    try:
        return Faults(**found, slow=slow)
    except ValueError as error:
        raise ValueError(f"--faults {text}: {error}") from error


def over(text: str, seed: int, graph: Schedule) -> Schedule:
    """A graph with the faults that `--faults` names; itself where nothing fails.

    Raises ValueError for faults that it cannot have, FileNotFoundError for a log that is not there.
    """
    asked = parse(text, seed)
    try:
        return graph if asked is None else asked.over(graph)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--faults {text}: {error.filename} is not there") from error
    except ValueError as error:
        raise ValueError(f"--faults {text}: {error}") from error


def absolute(text: str) -> str:
    """The same with the whole path of a log, readable from any directory."""
    if not text.startswith(LOG):
        return text
    return LOG + str(Path(text.removeprefix(LOG)).resolve())


def label(text: str) -> str:
    """The same as people read it, without the folder of a log."""
    return LOG + Path(text.removeprefix(LOG)).name if text.startswith(LOG) else text


def described(schedule: Faulty, text: str, rounds: int) -> str:
    """A line on what fails in so many rounds, the first 1,000 of more."""
    rounds = min(rounds, LOOKED_AT)
    links, agents = schedule.shares(range(rounds))
    return (
        f"faults {label(text)}: in the first {rounds:,} rounds {links:.1%} of the links fall and {agents:.1%} of the "
        "agents are down"
    )


class FaultLog:
    """The faults.jsonl of a run: what fell in each round that has begun.

    It is known from the options alone, so that a run that goes on writes it anew up to there, whatever was left of it.

    Args:
        folder: the run's directory.
        schedule: whose links and agents fail.
        begun: how many gossips have begun after so many steps.
        step: how many are done now.
    """

    def __init__(
        self, folder: Path, schedule: Faulty, begun: Callable[[int], int], step: int
    ) -> None:
        self._path, self._schedule, self._begun = folder / FILE, schedule, begun
        self._written = begun(step)
        write_synced(self._path, self._lines(range(self._written)))

    def extend(self, step: int) -> None:
        """Add what fell up to a step, readable at once."""
        rounds = range(self._written, self._begun(step))
        if lines := self._lines(rounds):
            with self._path.open("a", newline="\n") as stream:
                stream.write(lines)
        self._written = rounds.stop

    def sync(self) -> None:
        """Force it to disk, so that no checkpoint is newer."""
        sync(self._path)

    def _lines(self, rounds: range) -> str:
        return fault_log.text(self._schedule.records(rounds))
