"""Paths in messages that a page shows: whoever reads it need not know where they lie on this machine."""

import re

# folders of an absolute path, and not of an address such as https://host/page
FOLDERS = re.compile(r"(?<![\w.:/~-])/(?:[^/\n'\",:;]*[^/\s'\",:;]/)+(?=[^/\s])")


def without_folders(text: str) -> str:
    """A message whose absolute paths are the names of their files alone."""
    return FOLDERS.sub("", text)
