"""Layers of the networks: their formulas, computed a second way in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastsaddle.sim.networks._norms import EvoNormHardSwish, EvoNormSwish, norm_layer
from fastsaddle.sim.networks.resnet20 import FAMILIES, Block
from fastsaddle.sim.networks.transformer import Block as TransformerBlock

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("channels", [16, 24])
def test_hard_swish_evonorm_is_its_formula(channels: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = 3 * random.normal(size=(3, channels, 5, 4))
    norm, weight, bias = _filled(EvoNormHardSwish(channels), random)
    groups = x.reshape(3, 8, -1)
    deviation = np.sqrt(groups.var(axis=2) + 1e-5).repeat(channels // 8, axis=1)[:, :, None, None]
    expected = x * np.clip(x / 6 + 0.5, 0, 1) / deviation * weight + bias
    np.testing.assert_allclose(
        norm(torch.tensor(x)).detach().numpy(), expected, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(("channels", "groups"), [(5, 5), (32, 32), (96, 32)])
def test_swish_evonorm_is_its_formula(channels: int, groups: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = 3 * random.normal(size=(2, channels, 3, 4))
    norm, weight, bias = _filled(EvoNormSwish(channels), random)
    variance = x.reshape(2, groups, -1).var(axis=2, ddof=1)
    deviation = np.sqrt(variance + 1e-5).repeat(channels // groups, axis=1)[:, :, None, None]
    expected = x / (1 + np.exp(-x)) / deviation * weight + bias
    np.testing.assert_allclose(
        norm(torch.tensor(x)).detach().numpy(), expected, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_residual_blocks_of_the_families(family: str, stride: int, seed: int) -> None:
    inputs, outputs = 32, 32 * stride
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        block = Block(inputs, outputs, FAMILIES[family]).double()
        x = torch.randn(3, inputs, 6, 4, dtype=torch.float64)
    kernels = [p for p in block.parameters() if p.dim() == 4]

    def normalize(y: Tensor, groups: int) -> Tensor:
        parts = y.reshape(len(y), groups, -1)
        mean, variance = parts.mean(-1, keepdim=True), parts.var(-1, correction=0, keepdim=True)
        return ((parts - mean) / (variance + 1e-5).sqrt()).reshape(y.shape)

    def deviation(y: Tensor, groups: int, correction: int) -> Tensor:
        variance = y.reshape(len(y), groups, -1).var(-1, correction=correction)
        return (variance + 1e-5).sqrt().repeat_interleave(y.shape[1] // groups, 1)[..., None, None]

    def hard(y: Tensor) -> Tensor:
        return y * (y / 6 + 0.5).clamp(0, 1) / deviation(y, 8, 0)

    def over_the_batch(y: Tensor) -> Tensor:
        return normalize(y.transpose(0, 1), 1).transpose(0, 1)

    first, second, after = {
        "ngc": (hard, hard, lambda y: y),
        "qgm": (lambda y: y * y.sigmoid() / deviation(y, 32, 1), over_the_batch, F.relu),
        "groupnorm": (lambda y: normalize(y, 2).relu(), lambda y: normalize(y, 2), F.relu),
    }[family]
    inner = first(F.conv2d(x, kernels[0], stride=stride, padding=1))
    shortcut = x if stride == 1 else second(F.conv2d(x, kernels[2], stride=2))
    expected = after(second(F.conv2d(inner, kernels[1], padding=1)) + shortcut)
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


def test_transformer_block_is_that_of_torch(seed: int) -> None:
    width, heads = 12, 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        block = TransformerBlock(width, heads).double()
        for p in block.parameters():
            nn.init.normal_(p)
        x = torch.randn(2, 5, width, dtype=torch.float64)
    known = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0, activation="gelu", batch_first=True, norm_first=True
    )
    names = {
        "norm": "norm1",
        "query_key_value": "self_attn.in_proj_",
        "projection": "self_attn.out_proj",
        "perceptron.0": "norm2",
        "perceptron.1": "linear1",
        "perceptron.3": "linear2",
    }
    state = {}
    for name, p in block.named_parameters():
        layer, _, kind = name.rpartition(".")
        state[f"{names[layer]}.{kind}".replace("_.", "_")] = p
    known.double().load_state_dict(state)
    torch.testing.assert_close(block(x), known(x), rtol=1e-10, atol=1e-10)


def test_norms_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="channels must be a multiple of the 8 groups, got 12"):
        EvoNormHardSwish(12)
    with pytest.raises(ValueError, match="channels must be a multiple of the 32 groups, got 40"):
        EvoNormSwish(40)
    with pytest.raises(ValueError, match="norm must be one of evonorm, groupnorm, batchnorm"):
        norm_layer("layernorm")


def _filled(
    norm: nn.Module, random: np.random.Generator
) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    """`norm` in float64 with random weight and bias, and these."""
    channels = next(norm.parameters()).shape[0]
    weight, bias = random.normal(size=(2, channels, 1, 1))
    norm.double().load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    return norm, weight, bias
