"""Whether the processors are free for several threads, or kept by other processes."""

import hashlib
import time
from threading import Barrier, Thread

# long beside a time slice of the system's scheduler, short beside the start of a run
PROBE_SECONDS = 0.1
BLOCK = bytes(1 << 18)
# a thread that gets less of the time than this shares its processor
FREE = 0.8


def are_free(threads: int) -> bool:
    """Whether so many threads each had a processor to itself during a tenth of a second.

    Measured, as the system's own figures are of the whole machine and of the last minute, and know no quotas.
    """
    shares: list[float] = []
    meeting = Barrier(threads)

    def work() -> None:
        meeting.wait()
        begin, used = time.perf_counter(), time.thread_time()
        while (passed := time.perf_counter() - begin) < PROBE_SECONDS:
            # without the interpreter's lock
            hashlib.sha256(BLOCK).digest()
        shares.append((time.thread_time() - used) / passed)

    running = [Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return min(shares) >= FREE
