"""Files that are there whole or not at all, whenever the process dies."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end of the block: after a crash it is there whole or not at all.

    Raises OSError, naming `path`, for what the block or the renaming raises.
    """
    partial = path.with_name(path.name + PARTIAL)
    # of a killed process; a link would lead the writing elsewhere
    partial.unlink(missing_ok=True)
    try:
        yield partial
        replace_synced(partial, path)
    except OSError as error:
        # a full disk does not say which file it had no space for
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def write_synced(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with writing(path) as partial:
        # the same bytes on every system
        partial.write_bytes(text.encode())


def replace_synced(partial: Path, path: Path) -> None:
    """Rename a finished file to its name, its content and the folder's entry being on disk."""
    sync(partial)
    os.replace(partial, path)
    try:
        sync(path.parent)
    except OSError as error:
        # some network file systems cannot sync a folder, where the rename itself is still atomic
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on disk."""
    if os.name == "nt":
        # there folders cannot be opened, and files only for writing be synced
        if path.is_dir():
            return
        flags = os.O_RDWR
    else:
        flags = os.O_RDONLY
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
