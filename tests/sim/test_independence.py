"""Which networks' gradients are said to depend on who shares a process."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastsaddle.sim.run.independence import ANY, PLACEMENT, bits


class Attention(nn.Module):
    """Attention without a layer."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.layer = p, nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layer(x)[:, None]
        p = self.p if self.training else 0.0
        return F.scaled_dot_product_attention(h, h, h, dropout_p=p)


class Heads(nn.Module):
    """Attention as a layer."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(6, 2, dropout=p, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, x, x)[0]


NETWORKS = {
    "layer": lambda p: nn.Sequential(nn.Linear(6, 6), nn.Dropout(p)),
    "lstm": lambda p: nn.LSTM(6, 5, num_layers=2, dropout=p, batch_first=True),
    "attention": Heads,
    "function": Attention,
    "encoder": lambda p: nn.TransformerEncoderLayer(6, 2, 8, dropout=p, batch_first=True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_is_seen_wherever_it_is(name: str) -> None:
    x = torch.randn(2, 3, 6)
    assert bits(NETWORKS[name](0.0), "loop", x) == ANY
    network = NETWORKS[name](0.5).eval()
    before, draws = deepcopy(network.state_dict()), torch.get_rng_state()
    assert bits(network, "loop", x) == PLACEMENT
    assert torch.equal(torch.get_rng_state(), draws) and not network.training
    assert all(torch.equal(before[n], value) for n, value in network.state_dict().items())


def test_convolutions_depend_on_the_engine_and_statistics_stay() -> None:
    network = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.RReLU())
    x = torch.randn(2, 3, 6)
    assert bits(network, "loop", x) == PLACEMENT
    del network[2]
    assert bits(network, "loop", x) == ANY
    assert bits(network, "vmap", x) == PLACEMENT
    assert bits(network, "mine.py:Engine", x) == PLACEMENT
    assert not network[1].num_batches_tracked
