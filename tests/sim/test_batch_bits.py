"""Batches of pixels: the bits of numpy's arithmetic, whatever is done on the way; a batch that is handed out stays."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.data.agent_data import AgentData
from fastsaddle.sim.data.augmentation import AUGMENTATION_STREAM
from fastsaddle.sim.data.dataset import Dataset, normalization
from fastsaddle.sim.data.datasets.cifar10 import cifar10
from fastsaddle.sim.run.simulation import Simulation

AGENTS, BATCH, PAD = 3, 5, 4
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CPU = torch.device("cpu")


def normalized(pixels: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """`[..., c, h, w]` in float32, each operation rounded."""
    shape = (-1, 1, 1)
    shift, scale = (np.asarray(n, np.float32).reshape(shape) for n in (mean, deviation))
    return (pixels.astype(np.float32) / np.float32(255) - shift) / scale


def moves(kind: str, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Corners of crops in the padded images `[agents, batch, 2]`, and flips, drawn as the stream of a run's."""
    a_block = max(1, 2048 // BATCH)
    corners, flips = [], []
    for agent in range(AGENTS):
        random = np.random.default_rng([seed, AUGMENTATION_STREAM, agent, step // a_block])
        corners.append(random.integers(0, 2 * PAD, (a_block, BATCH, 2), np.int16, endpoint=True))
        flips.append(random.integers(0, 1, (a_block, BATCH), np.bool_, endpoint=True))
    corner = np.stack(corners)[:, step % a_block] * ("crop" in kind) + PAD * ("crop" not in kind)
    return corner, np.stack(flips)[:, step % a_block] & ("flip" in kind)


def expected(images: np.ndarray, black: np.ndarray, kind: str, seed: int, step: int) -> np.ndarray:
    """Normalized batches `[agents, batch, c, h, w]`, cropped and flipped by slices."""
    found = images.copy()
    height, width = images.shape[3:]
    corners, flips = moves(kind, seed, step)
    for at in np.ndindex(AGENTS, BATCH):
        padded = np.empty((images.shape[2], height + 2 * PAD, width + 2 * PAD), np.float32)
        padded[:] = black.reshape(-1, 1, 1)
        padded[:, PAD:-PAD, PAD:-PAD] = images[at]
        y, x = corners[at]
        crop = padded[:, y : y + height, x : x + width]
        found[at] = crop[..., ::-1] if flips[at] else crop
    return found


def is_equal(found: Tensor, wanted: np.ndarray) -> bool:
    return np.array_equal(found.numpy().view(np.int32), wanted.view(np.int32))


@pytest.mark.parametrize("kind", ["none", "crop", "flip", "crop-flip"])
@pytest.mark.parametrize("skew", [None, "color"])
def test_batches_have_the_bits_of_numpy(
    kind: str, skew: str | None, tmp_path: Path, seed: int
) -> None:
    random = np.random.default_rng(seed)
    x = random.integers(0, 256, (120, 3, 11, 9), dtype=np.uint8)
    np.savez(
        tmp_path / "images.npz",
        x_train=x[:100],
        y_train=np.arange(100) % 4,
        x_test=x[100:],
        y_test=np.arange(20) % 4,
    )
    options = {"agents": AGENTS, "batch_size": BATCH, "seed": seed % 1000, "alpha": 100.0}
    config = TrainConfig(
        dataset="npz", data_dir=tmp_path / "images.npz", augment=kind, feature_skew=skew, **options
    )
    data = AgentData(config, CPU)
    assert data.dataset.train_inputs.dtype == (torch.uint8 if skew is None else torch.float32)
    levels = np.arange(256) / 255
    share = np.stack([np.bincount(x[:100, c].ravel(), minlength=256) for c in range(3)]) / (
        100 * 99
    )
    mean = (share * levels).sum(1)
    deviation = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1))
    images = normalized(x, mean, deviation)
    assert is_equal(data.dataset.test[:], images[100:])
    assert is_equal(data.dataset.test[3:17:4], images[103:117:4])
    if skew is not None:
        # what the skew itself makes is another test's
        images[:100] = data.dataset.train_inputs.numpy()
    black = normalized(np.zeros((3, 1, 1), np.uint8), mean, deviation)
    for step in (0, 1, 2, 411, 5000):
        inputs, labels = data.batch(step)
        chosen = data.batches.at(step).numpy()
        wanted = images[chosen]
        if kind != "none":
            wanted = expected(wanted, black, kind, config.seed, step)
        assert is_equal(inputs, wanted)
        assert np.array_equal(labels, chosen % 4)


def test_cifar10_has_the_bits_of_numpy(cifar10_dir: Path) -> None:
    found = cifar10(cifar10_dir)
    assert is_equal(found.train[::7], normalized(found.train_inputs[::7].numpy(), MEAN, DEVIATION))
    assert is_equal(found.test[:], normalized(found.test_inputs.numpy(), MEAN, DEVIATION))


def pixels(seed: int) -> Dataset:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (40, 6, 7, 3), generator=draw, dtype=torch.uint8)
    # [samples, h, w, c], turned without being moved
    inputs, labels = x.permute(0, 3, 1, 2), torch.arange(40) % 2
    parts = inputs[:30], labels[:30], inputs[30:], labels[30:]
    return Dataset("mine", ("a", "b"), *parts, table=normalization(MEAN, DEVIATION))


def test_a_data_set_of_pixels(seed: int) -> None:
    data = pixels(seed)
    assert data.fill is not None and data.table is not None
    assert torch.equal(data.fill, data.table[:, 0])
    held = data.validation(0.2)
    for part, samples in ((data.train_inputs, data.train), (held.test_inputs, held.test)):
        wanted = normalized(part.numpy(), MEAN, DEVIATION)
        assert part.dtype == torch.uint8 and len(samples) == len(part)
        assert samples.shape == (3, 6, 7)
        assert is_equal(samples[:], wanted)
        some = torch.tensor([len(part) - 1, 0, 0])
        assert is_equal(samples[some], wanted[some])
        with pytest.raises(IndexError, match="out of bounds"):
            samples[some + 1]
    options = {n: getattr(data, n) for n in ("name", "classes", "train_labels", "test_labels")}
    for table, inputs in (
        (torch.ones(2, 256), data.train_inputs),
        (torch.ones(3, 255), data.train_inputs),
        (torch.ones(3, 256), data.train_inputs.flatten(1)),
    ):
        with pytest.raises(ValueError, match=r"mine: table must be \[channels, 256\], for images"):
            Dataset(**options, train_inputs=inputs, test_inputs=data.test_inputs, table=table)
    with pytest.raises(
        ValueError, match=r"mine: training inputs are torch.uint8, which needs table"
    ):
        Dataset(**options, train_inputs=data.train_inputs, test_inputs=data.test_inputs)


def test_a_batch_that_is_handed_out_stays(tmp_path: Path, seed: int) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Linear):\n"
        "    def __init__(self, shape, classes):\n        super().__init__(64, classes)\n"
        "        self.seen = []\n\n    def forward(self, x):\n        Net.seen.append(x)\n"
        "        return super().forward(x.flatten(1))\n\n    seen = []\n"
    )
    options = {"agents": 2, "batch_size": 3, "seed": seed % 1000, "engine": "loop"}
    built_in = Simulation(TrainConfig(**options, model="mlp:4"))
    inputs, labels = built_in.data.batch(0)
    before = inputs.clone(), labels.clone()
    for step in range(3):
        built_in.step(step)
    assert torch.equal(inputs, before[0]) and torch.equal(labels, before[1])
    own = Simulation(TrainConfig(**options, algorithm="dsgd", model=f"{tmp_path / 'net.py'}:Net"))
    seen = type(own.stack.agent(0)).seen
    seen.clear()
    for step in range(2):
        own.step(step)
    wanted = torch.cat([own.data.batch(step)[0] for step in range(2)])
    assert torch.equal(torch.stack(seen), wanted)
