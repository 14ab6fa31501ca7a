"""Threads that take one agent each, so that no thread waits for another inside an operation."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Barrier
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class AgentThreads:
    """A pool of threads in each of which torch's operations run on that thread alone.

    With OpenMP the number that `torch.set_num_threads` sets is the calling thread's own; later threads start with the
    last one set, so the caller's is set again.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        callers = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads, "agent", initializer=_use_one_thread)
        # all of them have started when each has met the others
        meeting = Barrier(threads)
        try:
            list(self._pool.map(lambda _: meeting.wait(), range(threads)))
        finally:
            torch.set_num_threads(callers)

    def run(self, work: Callable[[int], T], agents: int) -> list[T]:
        """`[work(0), ..., work(agents - 1)]`, each on the next thread that is free.

        Returns or raises when all have ended; of several errors the first agent's is raised.
        """
        futures: list[Future[T]] = [self._pool.submit(work, agent) for agent in range(agents)]
        try:
            wait(futures)
        finally:
            for future in futures:
                future.cancel()
            wait(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    # a thread takes over the last number set when it is first asked for: that must not be the caller's
    torch.get_num_threads()


@torch.no_grad()
def draws(work: Callable[[], Any]) -> bool:
    """Whether `work` draws from torch's global generator, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        work()
        return not torch.equal(before, torch.get_rng_state())
