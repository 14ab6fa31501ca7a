"""The timed side of a peer's process: it works in turns, and waits, idle, while the others have theirs.

The parent writes `go SECONDS` to standard input; the process answers with one line of JSON on what was standard
output. What the peer prints goes to standard error.
"""

import json
import os
import sys
import time
from typing import Any

_answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def answer(**content: Any) -> None:
    """Send one line to the parent."""
    print(json.dumps(content), file=_answers, flush=True)


def refuse(reason: str) -> None:
    """Tell the parent that this size cannot run, and end."""
    answer(refused=reason)
    sys.exit(0)


def next_turn() -> float:
    """Wait for the parent's word: how many seconds the next turn lasts. Ends the process when there is none."""
    words = sys.stdin.readline().split()
    if not words:
        _answers.flush()
        # the peer's own loop is somewhere above: nothing of it has to be tidied up
        os._exit(0)
    return float(words[1])


class Turns:
    """Counts the agents' local steps and ends each turn with the first round that outlasts it."""

    def __init__(self) -> None:
        self.steps = 0

    def begin(self, note: str = "") -> None:
        """Everything is set up: wait for the first turn."""
        answer(ready=True, note=note)
        self._start()

    def end_round(self) -> None:
        """Call after every round of all agents."""
        wall = time.perf_counter() - self._wall
        if wall >= self._seconds:
            answer(steps=self.steps, wall=wall, cpu=time.process_time() - self._cpu)
            self._start()

    def _start(self) -> None:
        self._seconds = next_turn()
        self.steps = 0
        self._wall, self._cpu = time.perf_counter(), time.process_time()


TURNS = Turns()
