"""The timed side of a comparison: the package of one folder, of which cases are timed as the parent asks.

    python process.py TREE NOISE THREADS

A line on standard input is JSON, `{"build": CASE}` or `{"time": CALLS}`; the answer is a line of JSON on what was
standard output. What the package prints goes to standard error.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# a turn is the fastest of so many blocks of calls, each of so many seconds: long beside the clock's steps, short
# beside the machine's moods
BLOCKS, SECONDS = 5, 0.005
MOST_CALLS = 2000


def suitable_calls(work: Callable[[], Any], clock: Callable[[], float]) -> int:
    """How many calls fill a block, after calls that warm up."""
    for _ in range(3):
        work()
    begin = clock()
    work()
    once = max(1e-6, clock() - begin)
    return max(1, min(MOST_CALLS, int(SECONDS / once)))


def block(work: Callable[[], Any], calls: int, clock: Callable[[], float]) -> float:
    """Seconds a call."""
    begin = clock()
    for _ in range(calls):
        work()
    return (clock() - begin) / calls


def main() -> None:
    tree, noise, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    # the package comes from the tree, what is timed of it from here
    sys.path[0] = tree
    import torch

    import fastsaddle

    place = Path(fastsaddle.__file__).resolve().parent
    if place != Path(tree).resolve() / "fastsaddle":
        return answer(refused=f"fastsaddle of {tree} was to be timed, but {place} was imported")
    sys.path[0] = str(ROOT)
    from benchmarks.regression.cases import cases
    from fastsaddle.kernels import native

    torch.set_num_threads(threads)
    try:
        native.library()
        reason = ""
    except ImportError as error:
        reason = str(error)
    known = cases(noise, threads)
    # several threads wait for each other by spinning, which is processor time too
    clock = time.process_time if threads == 1 else time.perf_counter
    answer(ready=True, native=reason, cases=[*known])
    work: Callable[[], Any] | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "build" in asked:
                work = None
                gc.collect()
                torch.manual_seed(0)
                work = known[asked["build"]]()
                answer(calls=suitable_calls(work, clock))
            else:
                assert work is not None
                answer(seconds=min(block(work, asked["time"], clock) for _ in range(BLOCKS)))
        except Exception as error:
            # one case of many, which the parent tells
            answer(failure=f"{type(error).__name__}: {' '.join(str(error).split())}"[:200])


if __name__ == "__main__":
    main()
