"""What each agent learns from: its part of the training set, its own features, its batches."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fastsaddle.sim import choices
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.data.augmentation import Augmentation
from fastsaddle.sim.data.batches import AgentBatches
from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.data.partitions._base import checked, statistics


class AgentData:
    """Data set, split and batches of one run, on the device that trains.

    Batches are those of the agents whose numbers are `here`, all by default; the split is everybody's.

    Attributes:
        dataset: the whole data set; with a feature skew every training image is already its agent's.
        partition: statistics of the split.
        steps_an_epoch: steps in which all agents together take as many samples as the training set has.

    Raises ValueError or OSError when options do not fit together or data are missing.
    """

    def __init__(
        self, config: TrainConfig, device: torch.device, here: range | None = None
    ) -> None:
        self.device = device
        here = range(config.agents) if here is None else here
        self.dataset = load(config, device)
        labels = self.dataset.train_labels.cpu().numpy()
        agents = config.agents
        self.parts = split(config, labels)
        self.partition = statistics(self.parts, labels, len(self.dataset.classes))
        self.batches = AgentBatches(
            self.parts[here.start : here.stop], config.batch_size, config.seed, device, here.start
        )
        self.steps_an_epoch = math.ceil(len(labels) / (agents * config.batch_size))
        if config.feature_skew is not None:
            self._skew(config.feature_skew, agents, config.seed_of_split)
        self.augmentation = self._augmentation(config, here)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs `[agents, batch, ...]` and labels `[agents, batch]` of one step, counted from 0."""
        return self.gather(self.draws(step))

    def draws(self, step: int) -> tuple[Tensor, ...]:
        """All that a step draws at random, on the device: indices `[agents, batch]` int64, then the augmentation's."""
        more = () if self.augmentation is None else self.augmentation.draws(step)
        return self.batches.at(step), *more

    # also so that the op runs without torch's dispatcher
    @torch.no_grad()
    def gather(self, draws: tuple[Tensor, ...], out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The batch, as `batch` gives it, that `draws` are of; inputs are written into `out` where that is given."""
        indices, *moves = draws
        labels = self.dataset.train_labels.index_select(0, indices.flatten())
        return self.dataset.train.gather(indices, *moves, out=out), labels.view_as(indices)

    def _skew(self, text: str, agents: int, seed: int) -> None:
        skew = choices.find(text, "feature_skews")
        # pixels become numbers here: what a skew makes of them is none of 256 levels
        inputs = self.dataset.train[:]
        for agent, part in enumerate(self.parts):
            mine = torch.from_numpy(part).to(self.device)
            inputs[mine] = skew(images=inputs[mine], agent=agent, agents=agents, seed=seed)
        self.dataset = replace(self.dataset, train_inputs=inputs)

    def _augmentation(self, config: TrainConfig, here: range) -> Augmentation | None:
        if config.augment == "none":
            return None
        shape, fill = self.dataset.shape, self.dataset.fill
        if fill is None:
            raise ValueError(f"--augment {config.augment} needs images, {config.dataset} has none")
        if len(shape) != 3 or fill.shape != shape[:1]:
            raise ValueError(
                f"--augment {config.augment} needs images [samples, channels, height, width] and a fill for each "
                f"channel, {config.dataset} has {['samples', *shape]} and a fill {list(fill.shape)}"
            )
        return Augmentation(
            config.augment,
            seed=config.seed,
            batch_size=config.batch_size,
            agents=len(here),
            device=self.device,
            first_agent=here.start,
        )


def split(config: TrainConfig, labels: np.ndarray) -> list[np.ndarray]:
    """The samples of each agent, as indices int64, for training labels `[n]`."""
    partition = choices.find(config.partition, "partitions")
    parts = partition(
        labels=labels, agents=config.agents, seed=config.seed_of_split, alpha=config.alpha
    )
    return checked(parts, len(labels), config.agents)


def load(config: TrainConfig, device: torch.device) -> Dataset:
    """The data set that the options name, with the test set that they ask for."""
    source = choices.find(config.dataset, "datasets")
    dataset = source(data_dir=config.data_dir, download=config.download, device=device)
    if not isinstance(dataset, Dataset):
        raise ValueError(f"--dataset {config.dataset} must return a Dataset, got {type(dataset)}")
    return dataset.validation() if config.evaluate_on == "validation" else dataset
