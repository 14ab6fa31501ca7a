"""What the library says by `logging`: nothing unless somebody listens, or the environment asks for it.

Modules have loggers of their own names, below `fastsaddle`. `FASTSADDLE_LOG=info` or `debug` writes their records to
standard error, in every command and in any program that imports the package.
"""

import logging
import os
import sys
import warnings
from typing import Any

VARIABLE = "FASTSADDLE_LOG"
LEVELS = ("debug", "info", "warning", "error")
FORMAT = "%(levelname)s %(name)s: %(message)s"


class _ToStandardError(logging.StreamHandler[Any]):
    """Writes to what `sys.stderr` is then, so that lines stay above a progress bar."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        rank = os.environ.get("RANK")
        # of several processes that torchrun has started, with the number of each
        self.setFormatter(logging.Formatter(FORMAT if rank is None else f"[{rank}] {FORMAT}"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _begin() -> None:
    logger, level = logging.getLogger("fastsaddle"), os.environ.get(VARIABLE, "")
    logger.addHandler(logging.NullHandler())
    if not level:
        return
    if level.lower() not in LEVELS:
        said = f"{VARIABLE} must be one of {', '.join(LEVELS)}, got {level!r}; nothing is logged"
        warnings.warn(said, RuntimeWarning, stacklevel=2)
        return
    logger.setLevel(level.upper())
    logger.addHandler(_ToStandardError())


_begin()
