"""decent-dp: one process an agent; each step averages with one of the two neighbors on the ring, in turn."""
# pyright: reportMissingImports=false

import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from _turns import answer, next_turn, refuse
from _work import BATCH, LR, MOMENTUM, CountedLoss, agents, data, network

MOST = 16


def rank_main(rank: int, count: int, store: str) -> None:
    """One agent. Rank 0 tells all how many steps the next turn has, and times it between two barriers."""
    from decent_dp.ddp import DecentralizedDataParallel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    model = DecentralizedDataParallel(
        network(),
        optim_fn=lambda named: torch.optim.SGD(
            [p for _, p in named], lr=LR, momentum=MOMENTUM, fused=True
        ),
        topology="ring",
        _local_world_size=count,
    )
    inputs, labels = (part[rank] for part in data(count))
    assert len(inputs) == BATCH
    loss_function = CountedLoss()

    def steps(number: int) -> float:
        dist.barrier()
        begin = time.perf_counter()
        for _ in range(number):
            loss_function(model(inputs), labels).backward()
        dist.barrier()
        return time.perf_counter() - begin

    # the first steps find out which gradients come when
    rate = 50 / steps(50)
    if rank == 0:
        answer(ready=True, note=f"{count} processes on {len(os.sched_getaffinity(0))} cores")
    while True:
        number = torch.tensor(max(1, int(rate * next_turn())) if rank == 0 else 0)
        dist.broadcast(number, 0)
        cpu = time.process_time()
        wall = steps(int(number))
        rate = int(number) / wall
        used = torch.tensor(time.process_time() - cpu)
        dist.all_reduce(used)
        if rank == 0:
            answer(steps=int(number) * count, wall=wall, cpu=float(used))


def main() -> None:
    count = agents()
    if count > MOST:
        refuse(f"a process for each agent: not started for more than {MOST}")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        others = [
            context.Process(target=rank_main, args=(rank, count, store), daemon=True)
            for rank in range(1, count)
        ]
        for process in others:
            process.start()
        rank_main(0, count, store)


if __name__ == "__main__":
    main()
