"""What rank 0 does for all: the others hear how it went, and go on together."""

from typing import Any

from fastsaddle.ranks.thread_transport import run_in_threads
from fastsaddle.sim.run.world import ElsewhereError, World


def test_the_first_alone_works_and_all_know_whether_it_failed() -> None:
    def work(transport: Any) -> tuple[Any, ...]:
        world, done = World(transport, 5), []

        def fails() -> None:
            raise ValueError("not free")

        try:
            world.first(fails)
        except (ValueError, ElsewhereError) as error:
            done.append((type(error), str(error)))
        # nobody has left: the next work is the first one's again
        return (*done, world.first(lambda: 7), world.share(world.is_first))

    found = run_in_threads(3, work, timeout=20)
    assert found[0] == ((ValueError, "not free"), 7, True)
    assert found[1:] == [((ElsewhereError, "not free"), None, True)] * 2
