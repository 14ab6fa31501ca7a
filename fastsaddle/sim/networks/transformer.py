"""A small transformer that classifies texts."""

import math

from torch import Tensor, nn


def transformer(
    shape: tuple[int, ...],
    classes: int,
    vocabulary: int | None,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
) -> nn.Module:
    """Token and position embeddings, `layers` pre-norm blocks, the mean over positions, one linear layer.

    Vaswani et al. 2017, arXiv:1706.03762; normalization before each part as in Xiong et al. 2020, arXiv:2002.04745;
    embeddings drawn with deviation 0.02. Our own small network, not one of a paper; no dropout. A token that pads is
    one like any other: attention and the mean include it.

    Raises ValueError for anything but tokens (`shape` (length,) and a vocabulary), for sizes below 1, and for a width
    that the heads do not divide.
    """
    if len(shape) != 1 or vocabulary is None:
        raise ValueError(
            "transformer needs tokens, shape (length,) and the size of their vocabulary, "
            f"got shape {shape} and vocabulary {vocabulary}: use mlp, lenet5, resnet20, ..."
        )
    for name, value in (("width", width), ("layers", layers), ("heads", heads)):
        if value < 1:
            raise ValueError(f"transformer: {name} must be >= 1, got {value}")
    if width % heads:
        raise ValueError(f"transformer: width must be a multiple of heads {heads}, got {width}")
    return Transformer(shape[0], classes, vocabulary, width, layers, heads)


class Transformer(nn.Module):
    """See `transformer`."""

    def __init__(
        self, length: int, classes: int, vocabulary: int, width: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[batch, length]` int64 below `vocabulary` to `[batch, classes]`."""
        x = self.blocks(self.token(tokens) + self.position.weight)
        return self.classifier(self.norm(x).mean(dim=1))


class Block(nn.Module):
    """Self-attention of all positions to all, then a perceptron of four times the width; each adds to its input.

    Attention is written out: torch's fused functions cannot be mapped over agents.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, length, width]` to the same shape."""
        by_head = self.query_key_value(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        # each [batch, heads, length, width / heads]
        query, key, value = by_head.transpose(1, 3).unbind(2)
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        attended = scores.softmax(dim=-1) @ value
        x = x + self.projection(attended.transpose(1, 2).flatten(2))
        return x + self.perceptron(x)
