"""fastsaddle's Simulation: DSGDm on a ring, as `fastsaddle train` runs it, its batches included."""

import sys

import torch
from _turns import TURNS
from _work import BATCH, CLASSES, LR, MOMENTUM, agents, data

from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.run.simulation import Simulation


def synthetic() -> Dataset:
    """The samples of all agents as one data set, which the simulation splits again."""
    inputs, labels = data(agents())
    inputs, labels = inputs.reshape(-1, 1, 28, 28), labels.flatten()
    classes = tuple(map(str, range(CLASSES)))
    return Dataset("synthetic", classes, inputs, labels, inputs[:BATCH], labels[:BATCH])


def config_of(count: int) -> TrainConfig:
    """The options of a run of so many agents, of the perceptron or what is named behind the cores."""
    return TrainConfig(
        algorithm="dsgdm",
        dataset=f"{__file__}:synthetic",
        model=sys.argv[3] if len(sys.argv) > 3 else "mlp",
        agents=count,
        topology="ring",
        partition="iid",
        batch_size=BATCH,
        device="cpu",
        lr=LR,
        momentum=MOMENTUM,
    )


def main() -> None:
    count = agents()
    simulation = Simulation(config_of(count))
    torch.set_num_threads(1)
    TURNS.begin(f"engine {simulation.engine.engine}, chunk {simulation.engine.chunk}")
    step = 0
    while True:
        simulation.step(step)
        step += 1
        TURNS.steps += count
        TURNS.end_round()


if __name__ == "__main__":
    main()
