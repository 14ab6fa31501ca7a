"""Feature skews: each agent's own, the same for the same seed, unmoved by other agents."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from fastsaddle.sim.data.feature_skews.color import color
from fastsaddle.sim.data.feature_skews.noise import noise
from fastsaddle.sim.data.feature_skews.rotation import rotation

SKEWS: list[Callable[..., Tensor]] = [
    lambda images, agent, agents, seed: rotation(images, agent, agents),
    color,
    noise,
]
NAMES = ["rotation", "color", "noise"]


def random_images(seed: int, shape: tuple[int, ...] = (5, 3, 9, 9)) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(1, 2, shape).astype(np.float32))


@pytest.mark.parametrize("skew", SKEWS, ids=NAMES)
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (7, 3, 11, 6)])
def test_a_new_tensor_of_the_same_kind(
    skew: Callable[..., Tensor], shape: tuple[int, ...], seed: int
) -> None:
    images = random_images(seed, shape)
    before = images.clone()
    random_state = torch.get_rng_state()
    skewed = [skew(images, agent, 4, seed) for agent in range(4)]
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), random_state)
    for agent, mine in enumerate(skewed):
        assert (mine.shape, mine.dtype) == (images.shape, images.dtype)
        assert mine.data_ptr() != images.data_ptr()
        assert torch.equal(mine, skew(images, agent, 4, seed))
    assert all(not torch.equal(a, b) for a, b in pairwise(skewed))


@pytest.mark.parametrize("skew", SKEWS, ids=NAMES)
def test_refusals(skew: Callable[..., Tensor]) -> None:
    for wrong in (torch.ones(4, 8), torch.ones(4, 3, 8, 8, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"needs float images \[samples, channels, height"):
            skew(wrong, 0, 2, 0)
    for agent in (-1, 2):
        with pytest.raises(ValueError, match=f"agent must be between 0 and 1, got {agent}"):
            skew(torch.ones(4, 1, 8, 8), agent, 2, 0)


def test_rotation_by_right_angles(seed: int) -> None:
    images = random_images(seed, (3, 2, 7, 7))
    # four agents over 360 degrees: -135, -45, 45, 135; over 240 degrees: -90, -30, 30, 90
    for agent, turns in ((0, -1), (3, 1)):
        turned = rotation(images, agent, 4, 240.0)
        assert torch.allclose(turned, torch.rot90(images, turns, (2, 3)), atol=1e-5)
    assert torch.allclose(rotation(images, 0, 1, 360.0), images, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 12, 12), (2, 1, 9, 14), (1, 2, 16, 7)])
def test_rotation_against_scipy(shape: tuple[int, ...], seed: int) -> None:
    images = random_images(seed, shape)
    for agent, angle in enumerate((-60.0, -20.0, 20.0, 60.0)):
        found = rotation(images, agent, 4, 160.0)
        expected = ndimage.rotate(
            images.numpy().astype(np.float64), angle, (3, 2), reshape=False, order=1, mode="nearest"
        )
        assert np.allclose(found, expected, atol=1e-4), angle


def test_rotation_angles(seed: int) -> None:
    with pytest.raises(ValueError, match=r"degrees must be in \[0, 360\], got -1"):
        rotation(random_images(seed), 0, 2, -1.0)
    with pytest.raises(ValueError, match=r"degrees must be in \[0, 360\], got nan"):
        rotation(random_images(seed), 0, 2, float("nan"))
    images = random_images(seed)
    # the first and the last of two agents are mirror images of each other
    flipped = rotation(images.flip(3), 1, 2, 70.0).flip(3)
    assert torch.allclose(rotation(images, 0, 2, 70.0), flipped, atol=1e-5)


@pytest.mark.parametrize("strength", [0.3, 0.9])
def test_color_is_a_gain_and_a_shift(strength: float, seed: int) -> None:
    images = random_images(seed, (6, 40, 5, 5))
    gains, shifts = [], []
    for agent in range(8):
        found = color(images, agent, 8, seed, strength).numpy().astype(np.float64)
        for channel in range(40):
            x, y = images[:, channel].numpy().ravel(), found[:, channel].ravel()
            gain, shift = np.polyfit(x.astype(np.float64), y, 1)
            assert np.allclose(gain * x + shift, y, atol=1e-5)
            gains.append(gain)
            shifts.append(shift)
    for values in (np.array(gains) - 1, np.array(shifts)):
        assert np.abs(values).max() <= strength + 1e-5
        # uniform in [-strength, strength]: six deviations of the mean and of the mean square
        assert abs(values.mean()) <= 6 * strength / np.sqrt(3 * 320)
        assert (values**2).mean() == pytest.approx(strength**2 / 3, rel=6 * 0.9 / np.sqrt(320))
    assert abs(np.corrcoef(gains, shifts)[0, 1]) < 6 / np.sqrt(320)


def test_noise_grows_with_the_agent(seed: int) -> None:
    images = random_images(seed, (50, 3, 16, 16))
    assert torch.equal(noise(images, 0, 5, seed), images)
    assert torch.equal(noise(images, 0, 1, seed), images)
    added = [noise(images, agent, 5, seed, 2.0) - images for agent in range(5)]
    for agent in range(1, 5):
        # five deviations of the deviation of 38,400 numbers
        assert added[agent].std().item() == pytest.approx(
            2.0 * agent / 4, rel=5 / np.sqrt(2 * 38_400)
        )
        assert added[agent].mean().abs() < 5 * 2.0 / np.sqrt(38_400)
    together = torch.stack([values.flatten() for values in added[1:]])
    assert (torch.corrcoef(together) - torch.eye(4)).abs().max() < 5 / np.sqrt(38_400)


def test_other_agents_change_no_draw(seed: int) -> None:
    images = random_images(seed)
    assert torch.equal(color(images, 2, 3, seed), color(images, 2, 300, seed))
    # the last agent's deviation is the same, agent / (agents - 1) of it elsewhere
    full = noise(images, 2, 3, seed, 1.0) - images
    assert torch.allclose(noise(images, 2, 5, seed, 1.0) - images, full / 2, atol=1e-5)
    assert not torch.equal(color(images, 2, 3, seed), color(images, 2, 3, seed ^ 1))
    assert not torch.equal(noise(images, 2, 3, seed), noise(images, 2, 3, seed ^ 1))


def test_wrong_strengths(seed: int) -> None:
    images = random_images(seed)
    for strength in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"strength must be in \[0, 1\), got"):
            color(images, 0, 2, seed, strength)
    for deviation in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="deviation must be finite and >= 0, got"):
            noise(images, 0, 2, seed, deviation)
