"""The right to write in a run's directory, which one process at a time has, and which ends with it however it dies."""

import errno
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

# stays when the lock is given back: whoever removed it might remove another's
LOCK = ".lock"
# some network file systems have no locks: nobody is kept out there
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


class RunInUseError(ValueError):
    """Another process writes in this run's directory."""


def lock(directory: Path) -> Callable[[], None]:
    """Take the right to write in a directory that exists; what gives it back.

    Raises:
        RunInUseError: another process, or this one, has it.
        OSError: there can be no file in the directory.
    """
    # given back by whichever thread lets the run go
    held = FileLock(directory / LOCK, thread_local=False)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise RunInUseError(f"{directory} is in use by another process") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return held.release
