"""Paths of what a page shows: only files of the directories that it is about, and no folders in its messages.

Whoever reads a page need not know where things lie on this machine, nor what else does.
"""

import re
from pathlib import Path

# folders of an absolute path, and not of an address such as https://host/page
FOLDERS = re.compile(r"(?<![\w.:/~-])/(?:[^/\n'\",:;]*[^/\s'\",:;]/)+(?=[^/\s])")


def without_folders(text: str) -> str:
    """A message whose absolute paths are the names of their files alone."""
    return FOLDERS.sub("", text)


def inside(folder: Path, name: str) -> Path:
    """The path of a file or folder in `folder`. Raises ValueError where `name`, or a link, leads out of it."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} leads out of {folder}, and is not read")
    return path
