"""How many threads kernels may use on a CPU: torch's number, but one in a forked child.

Threads do not survive a fork, and OpenMP's runtime (libgomp) would wait for them for ever.
"""

import os

import torch


class Threads:
    """Whether this process is a forked child, and whether its kernels have used several threads.

    Attributes:
        forked: whether it is a forked child.
        used: whether kernels have run on several threads.
    """

    forked = False
    used = False


def count() -> int:
    """Threads that a kernel may use now."""
    if Threads.forked:
        return 1
    threads = torch.get_num_threads()
    Threads.used |= threads > 1
    return threads


def settle() -> None:
    """Before an op runs as plain torch operators: in a forked child these use one thread, too."""
    if count() == 1 and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def _note_fork() -> None:
    Threads.forked = True
    if Threads.used:
        # torch's own operators would wait for the same threads
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
