"""Crops and flips: each sample against slices of numpy's padding; any step can be asked first."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsaddle.sim.data.augmentation import KINDS, Augmentation
from fastsaddle.sim.data.samples import Samples


def random_images(seed: int, shape: tuple[int, ...] = (3, 5, 2, 7, 9)) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32))


def build(kind: str, images: Tensor, seed: int, pad: int = 4) -> Augmentation:
    agents, batch_size = images.shape[:2]
    return Augmentation(kind, seed=seed, batch_size=batch_size, agents=agents, pad=pad)


def apply(augmentation: Augmentation, images: Tensor, step: int) -> Tensor:
    """The augmented images of one step."""
    agents, batch_size, channels = images.shape[:3]
    samples = Samples(images.flatten(0, 1).contiguous(), fill=torch.arange(1, channels + 1) * -10.5)
    indices = torch.arange(agents * batch_size).view(agents, batch_size)
    return samples.gather(indices, *augmentation.draws(step))


def every_view(image: np.ndarray, pad: int) -> dict[tuple[int, int, bool], np.ndarray]:
    """All crops of one padded image `[c, h, w]`, plain and flipped."""
    channels, height, width = image.shape
    padded = np.stack(
        [np.pad(plane, pad, constant_values=-10.5 * (c + 1)) for c, plane in enumerate(image)]
    )
    assert padded.shape == (channels, height + 2 * pad, width + 2 * pad)
    views = {}
    for y in range(2 * pad + 1):
        for x in range(2 * pad + 1):
            crop = padded[:, y : y + height, x : x + width]
            views[y, x, False] = crop
            views[y, x, True] = crop[:, :, ::-1]
    return views


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pad", [1, 4])
@pytest.mark.parametrize("shape", [(3, 5, 2, 7, 9), (2, 3, 3, 8, 5), (1, 1, 1, 2, 2)])
def test_each_sample_is_a_slice(kind: str, pad: int, shape: tuple[int, ...], seed: int) -> None:
    images = random_images(seed, shape)
    before = images.clone()
    augmentation = build(kind, images, seed, pad)
    for step in (0, 1, 5000):
        found = apply(augmentation, images, step)
        assert (found.shape, found.dtype) == (images.shape, images.dtype)
        assert torch.equal(images, before)
        for image, new in zip(images.flatten(0, 1), found.flatten(0, 1), strict=True):
            views = every_view(image.numpy(), pad)
            matches = [which for which, view in views.items() if np.array_equal(view, new)]
            # crops of nothing but padding look the same
            assert matches
            if kind == "crop":
                assert any(not flip for _, _, flip in matches)
            if kind == "flip":
                assert any((y, x) == (pad, pad) for y, x, _ in matches)


def seen(kind: str, seed: int) -> np.ndarray:
    """Row, column and flip of 4 x 32 samples in 40 steps, `[40, 4, 32, 3]`, read off the images."""
    numbers = torch.arange(1.0, 65.0).view(1, 1, 1, 8, 8).expand(4, 32, 1, 8, 8)
    augmentation = Augmentation(kind, seed=seed, batch_size=32, agents=4, pad=2)
    result = np.empty((40, 4, 32, 3), dtype=int)
    for step in range(40):
        # the middle of the image is never padding
        middle = apply(augmentation, numbers, step)[:, :, 0, 3:5, 3:5].numpy()
        flip = middle[..., 0, 0] > middle[..., 0, 1]
        first = np.where(flip, middle[..., 0, 1], middle[..., 0, 0]).astype(int) - 1
        result[step] = np.stack([first // 8 - 3 + 2, first % 8 - 3 + 2, flip], axis=-1)
    return result


def test_all_crops_are_equally_likely_and_independent(seed: int) -> None:
    drawn = seen("crop-flip", seed).reshape(-1, 3)
    for column, choices in ((0, 5), (1, 5), (2, 2)):
        share = np.bincount(drawn[:, column], minlength=choices) / len(drawn)
        assert len(share) == choices
        assert np.abs(share - 1 / choices).max() < 5 * np.sqrt(0.25 / len(drawn))
    correlation = np.corrcoef(drawn.T) - np.eye(3)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(drawn))
    by_agent = seen("crop-flip", seed)[..., 0].swapaxes(0, 1).reshape(4, -1)
    assert np.abs(np.corrcoef(by_agent) - np.eye(4)).max() < 5 / np.sqrt(by_agent.shape[1])


def test_the_kinds_share_their_draws(seed: int) -> None:
    both, crop, flip = (seen(kind, seed) for kind in ("crop-flip", "crop", "flip"))
    assert np.array_equal(both[..., :2], crop[..., :2])
    assert np.array_equal(both[..., 2], flip[..., 2])
    assert not crop[..., 2].any()
    assert (flip[..., :2] == 2).all()


def test_any_step_can_be_asked_first(seed: int) -> None:
    images = random_images(seed, (3, 32, 1, 6, 6))
    augmentation = build("crop-flip", images, seed)
    in_order = [apply(augmentation, images, step) for step in range(150)]
    for step in np.random.default_rng(seed).permutation(150)[:20]:
        fresh = build("crop-flip", images, seed)
        assert torch.equal(apply(fresh, images, int(step)), in_order[step])
        assert torch.equal(apply(augmentation, images, int(step)), in_order[step])
    assert not torch.equal(in_order[0], in_order[1])


def test_other_agents_change_nothing(seed: int) -> None:
    images = random_images(seed, (6, 4, 3, 8, 8))
    few, many = build("crop-flip", images[:2], seed), build("crop-flip", images, seed)
    for step in (0, 1, 700):
        assert torch.equal(apply(few, images[:2], step), apply(many, images, step)[:2])


def test_seed_and_agent_decide(seed: int) -> None:
    images = random_images(seed, (1, 32, 1, 6, 6)).expand(2, -1, -1, -1, -1)
    one = apply(build("crop-flip", images, seed), images, 0)
    other = apply(build("crop-flip", images, seed ^ 1), images, 0)
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, other)


def test_wrong_arguments() -> None:
    right: dict[str, Any] = {"seed": 0, "batch_size": 4, "agents": 2}
    with pytest.raises(ValueError, match="one of crop, flip, crop-flip, got 'rotate'"):
        Augmentation("rotate", **right)
    for wrong, message in (
        ({"pad": -1}, "pad must be >= 0, got -1"),
        ({"batch_size": 0}, "batch_size and agents must be >= 1, got 0 and 2"),
        ({"agents": 0}, "batch_size and agents must be >= 1, got 4 and 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Augmentation("crop", **{**right, **wrong})
    draws = Augmentation("crop", **right).draws(0)
    indices = torch.zeros(2, 4, dtype=torch.int64)
    for shape, at in (((9, 16), indices), ((9, 1, 8, 8), indices), ((9, 3, 8, 8), indices[:, :3])):
        with pytest.raises(ValueError, match=r"must be .*got"):
            Samples(torch.ones(shape), fill=torch.ones(3)).gather(at, *draws)
