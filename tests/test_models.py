"""Networks: published sizes, seeds that decide, and the normalization's formula."""

import numpy as np
import pytest
import torch
from torch import nn

from fastsaddle.sim import models

DIGITS, FASHION, CIFAR10 = (1, 8, 8), (1, 28, 28), (3, 32, 32)
PARAMETERS = {
    ("mlp", DIGITS): 3_760,
    ("mlp", FASHION): 39_760,
    ("mlp", CIFAR10): 154_160,
    ("lenet5", FASHION): 61_706,
    ("lenet5", CIFAR10): 62_006,
    ("cnn5", CIFAR10): 76_010,
    ("cnn5", FASHION): 70_954,
    ("cnn5", DIGITS): 65_834,
}


@pytest.mark.parametrize(("name", "shape"), PARAMETERS)
def test_parameters_and_outputs(name: str, shape: tuple[int, int, int], seed: int) -> None:
    model = models.build(name, shape, 10, seed)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name, shape]
    assert not list(model.buffers())
    generator = torch.Generator().manual_seed(seed)
    outputs = model(torch.randn(5, *shape, generator=generator))
    assert outputs.shape == (5, 10)
    assert outputs.isfinite().all()
    assert outputs.std() > 0


@pytest.mark.parametrize("name", models.MODELS)
def test_seed_decides_and_nothing_else(name: str, seed: int) -> None:
    before = torch.get_rng_state()
    first = models.build(name, FASHION, 10, seed)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = (models.build(name, FASHION, 10, s) for s in (seed, seed ^ 1))
    assert _same(first, again)
    assert not _same(first, other)


def test_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match="lenet5 needs images of at least 12x12, got 8x8"):
        models.build("lenet5", DIGITS, 10, 0)
    models.build("lenet5", (1, 12, 12), 10, 0)
    with pytest.raises(ValueError, match="cnn5 needs images of at least 8x8, got 7x9"):
        models.build("cnn5", (1, 7, 9), 10, 0)
    with pytest.raises(ValueError, match="model must be one of mlp, lenet5, cnn5, got 'vgg'"):
        models.build("vgg", FASHION, 10, 0)


def test_evonorm_is_its_formula(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(3, 16, 5, 4))
    weight, bias = random.normal(size=(2, 16, 1, 1))
    norm = models.EvoNorm(16).double()
    norm.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    groups = x.reshape(3, 8, 2 * 5 * 4)
    deviation = np.sqrt(groups.var(axis=2) + 1e-5).repeat(2, axis=1)[:, :, None, None]
    expected = x * np.clip(x / 6 + 0.5, 0, 1) / deviation * weight + bias
    np.testing.assert_allclose(norm(torch.tensor(x)).detach().numpy(), expected, rtol=1e-12)


def _same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
