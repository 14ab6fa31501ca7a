"""Commands in forked children of a process that has imported everything: a start takes milliseconds, not seconds."""

import io
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

MEMORY = 8 * 2**30
POLL = 5e-4


@dataclass(frozen=True)
class Ended:
    """How a child came to its end.

    Attributes:
        status: exit status, or minus the number of the signal that killed it.
        out: what it wrote to its standard output.
        err: the same of its standard error.
        killed: whether it was killed here, on purpose.
        hung: whether it was killed because its time was over.
    """

    status: int
    out: str
    err: str
    killed: bool = False
    hung: bool = False

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.err or (
            self.status < 0 and not self.killed and not self.hung
        )

    @property
    def last(self) -> str:
        """The end of what it said, in one line."""
        return " / ".join((self.err.strip() or self.out.strip()).splitlines()[-3:])[-400:]


def warm_up(place: Path) -> None:
    """Make a small run, so that all is imported, and by one thread: others do not survive a fork."""
    import torch

    torch.set_num_threads(1)
    options = "--agents 2 --model mlp:4 --steps 2 --batch-size 4 --threads 1"
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        status = command("train", *options.split(), "--out", str(place / "warm"))()
    if status != 0:
        raise RuntimeError(said.getvalue())


def bound_memory() -> None:
    """Let this process be refused what it asks for beyond MEMORY bytes, before it takes the machine's."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def command(*arguments: str) -> Callable[[], int]:
    """`fastsaddle` with these arguments, to be called in a child."""
    from fastsaddle.cli import main

    return lambda: main([*arguments])


def call(
    function: Callable[[], int],
    place: Path,
    seconds: float = 120.0,
    is_due: Callable[[], bool] = lambda: False,
) -> Ended:
    """Call a function in a child whose working folder is `place`; its result is the exit status.

    Args:
        function: what the child does.
        place: an existing folder, in which `stdout` and `stderr` are written too.
        seconds: after so long the child has hung, and is killed.
        is_due: asked again and again; the child is killed once it says so.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    out, err = place / "stdout", place / "stderr"
    child = os.fork()
    if child == 0:
        _become(function, place, out, err)
    # a group of its own, so that nothing of it outlives a kill, which may come before the child has done anything
    os.setpgid(child, child)
    deadline = time.monotonic() + seconds
    killed = hung = False
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        killed = killed or is_due()
        hung = not killed and time.monotonic() > deadline
        if killed or hung:
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(POLL)
    ended = os.waitstatus_to_exitcode(status)
    # a child may end by itself in the very moment that it is killed in
    killed = killed and ended == -signal.SIGKILL
    texts = [file.read_text("utf-8", "replace") for file in (out, err)]
    return Ended(ended, *texts, killed=killed, hung=hung and ended == -signal.SIGKILL)


def _become(function: Callable[[], int], place: Path, out: Path, err: Path) -> None:
    """All that the child does; never returns."""
    status = 1
    try:
        os.chdir(place)
        for number, file in ((1, out), (2, err)):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, number)
        # pytest and others may have put something else there
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
        bound_memory()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = function()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
