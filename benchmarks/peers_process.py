"""A process that is timed beside others: it waits until it is its turn, and may fail without harm to them."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent / "peers"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ONE_THREAD = dict.fromkeys(THREADS, "1")


class EngineProcess:
    """`python SCRIPT ARGUMENTS` with one thread, no GPU, and a process group of its own.

    Args:
        script: a file of `peers/`, or the path of another.
        arguments: what it gets.
        scratch: an empty folder: its current directory, and where what it prints goes.
        patience: seconds to wait for an answer.
        environment: variables of its own, which say how many threads it has.

    Attributes:
        failure: why it can answer no more; empty as long as it can.
        ready: its first answer.
        note: what it said about itself in it.
        start_up: seconds until then.
    """

    def __init__(
        self,
        script: str,
        arguments: list[str],
        scratch: Path,
        patience: float,
        environment: Mapping[str, str] = ONE_THREAD,
    ) -> None:
        self.failure, self.patience = "", patience
        scratch.mkdir()
        self._log = (scratch / "log").open("w+")
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, SCRIPTS / script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=scratch,
            env={**os.environ, **environment, "CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,
        )
        self.ready = self._answer() or {}
        self.note = str(self.ready.get("note", ""))
        self.start_up = time.perf_counter() - begin

    def turn(self, seconds: float) -> dict[str, Any] | None:
        """Let it work for so long, to the end of a round: steps, wall and cpu seconds. None once it has failed."""
        return self.ask(f"go {seconds}")

    def ask(self, line: str) -> dict[str, Any] | None:
        """Write it a line and wait for its answer. None once it has failed."""
        if self.failure:
            return None
        assert self._process.stdin
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            return self._fail(f"ended: {self._last_words()}")
        return self._answer()

    def end(self) -> None:
        """Kill the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._log.close()

    def _answer(self) -> dict[str, Any] | None:
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], self.patience)[0]:
            return self._fail(f"no answer for {self.patience:.0f} s")
        text = self._process.stdout.readline()
        if not text:
            return self._fail(f"crashed: {self._last_words()}")
        found = json.loads(text)
        return self._fail(found["refused"]) if "refused" in found else found

    def _fail(self, reason: str) -> None:
        self.failure = reason

    def _last_words(self) -> str:
        self._log.seek(0)
        return (self._log.read().strip().splitlines() or ["without a word"])[-1][:200]
