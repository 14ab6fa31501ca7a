"""fastsaddle's Simulation over processes: the run of fastsaddle_ring.py as `torchrun -m fastsaddle train` has it."""

import multiprocessing
import os
import select
import socket
import sys
import time
from datetime import timedelta

import torch
from _turns import answer, next_turn
from _work import agents
from fastsaddle_ring import config_of

from fastsaddle.sim.run import world as worlds
from fastsaddle.sim.run.simulation import Simulation

RANKS = 2
# of a message; while others have their turns rank 0 says now and then that there is nothing to do yet
PATIENCE, BETWEEN = timedelta(minutes=2), 20.0


def rank_main(rank: int, count: int, port: int) -> None:
    """One process. Rank 0 tells the others how many steps the next turn has."""
    told = {"RANK": rank, "WORLD_SIZE": RANKS, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    torch.set_num_threads(1)
    world = worlds.join(lambda: count, None, PATIENCE)
    simulation = Simulation(config_of(count), world)
    done = 0

    def steps(number: int) -> dict[str, float]:
        """Wall seconds, processor seconds of both processes, and those of their threads that only carry messages."""
        nonlocal done
        wall, cpu, main = time.perf_counter(), time.process_time(), time.thread_time()
        for _ in range(number):
            simulation.step(done)
            done += 1
        simulation.settle()
        used = time.process_time() - cpu
        both = world.collect([used, used - (time.thread_time() - main)])
        cpus, carrying = (sum(seconds) for seconds in zip(*both, strict=True))
        return {"wall": time.perf_counter() - wall, "cpu": cpus, "carrying": carrying}

    rate = 50 / steps(50)["wall"]
    if rank == 0:
        engine = simulation.engine
        answer(ready=True, note=f"{RANKS} processes, engine {engine.engine}, chunk {engine.chunk}")
    while True:
        number = world.share(turn(rate) if rank == 0 else None)
        if not number:
            continue
        found = steps(number)
        rate = number / found["wall"]
        if rank == 0:
            answer(steps=number * count, **found)


def turn(rate: float) -> int:
    """How many steps the next turn has; 0 where it does not come yet."""
    is_due, _, _ = select.select([sys.stdin], [], [], BETWEEN)
    return max(1, int(rate * next_turn())) if is_due else 0


def main() -> None:
    count = agents()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # of a process that has one thread, and has imported everything
    context = multiprocessing.get_context("fork")
    for rank in range(1, RANKS):
        context.Process(target=rank_main, args=(rank, count, port), daemon=True).start()
    rank_main(0, count, port)


if __name__ == "__main__":
    main()
