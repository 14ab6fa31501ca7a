"""What a campaign is: attempts that are numbered, drawn from a seed, and counted."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Counts:
    """What attempts came to.

    Attributes:
        tried: in the campaign's unit: kills, signals, files, option sets or calls.
        ended: how often each ordinary end was met.
        losses: results that differ from the right ones, and errors that tell users too little; a line each.
        hangs: what did not end in time.
        tracebacks: errors that came through as tracebacks, and deaths by a signal that nobody sent.
    """

    tried: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)

    def add(self, other: "Counts") -> None:
        self.tried += other.tried
        self.ended += other.ended
        self.losses += other.losses
        self.hangs += other.hangs
        self.tracebacks += other.tracebacks

    @property
    def findings(self) -> list[str]:
        """All that must not be, each with its kind."""
        kinds = {"loss": self.losses, "hang": self.hangs, "traceback": self.tracebacks}
        return [f"{kind}: {text}" for kind, found in kinds.items() for text in found]


Draw = random.Random


@dataclass(frozen=True)
class Campaign:
    """One kind of attempts.

    Attributes:
        unit: what is counted.
        count: how many are tried where nothing else is asked for.
        attempt: one attempt, with a source of random numbers, an empty folder of its own, and what `prepare` made.
        prepare: done once before all attempts, with a folder that stays until the end.
    """

    unit: str
    count: int
    attempt: Callable[[Draw, Path, Any], Counts]
    prepare: Callable[[Path], Any]
