"""Whether this process was stopped, which it does not notice by itself: others have missed it meanwhile."""

from __future__ import annotations

import threading
import time
import weakref

# looks at the clock within the time that is too long
LOOKS = 8


class Pulse:
    """Looks at the clock again and again: where it could not for long, the process was stopped.

    Args:
        longest: seconds that others wait for this process.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._last, self._stop, self._woke = time.monotonic(), 0.0, float("-inf")
        threading.Thread(
            target=_beat, args=(weakref.ref(self), longest / LOOKS), daemon=True
        ).start()

    def look(self) -> None:
        """Look at the clock."""
        now = time.monotonic()
        if now - self._last > self._longest / 2:
            self._stop, self._woke = now - self._last, now
        self._last = now

    @property
    def stopped(self) -> float:
        """Seconds that the process was stopped for, not long ago; 0 where it was not."""
        self.look()
        return self._stop if self._last - self._woke < self._longest else 0.0


def _beat(of: weakref.ref[Pulse], pause: float) -> None:
    """A thread's work, as long as there is such a pulse."""
    while (pulse := of()) is not None:
        pulse.look()
        del pulse
        time.sleep(pause)
