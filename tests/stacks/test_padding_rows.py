"""Embeddings with padding in a stack: the padding row learns nothing, all others what they learn alone."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastsaddle as fs

pytestmark = pytest.mark.usefixtures("one_thread")


class Words(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(7, 3, **options), nn.Linear(3, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(tokens)).sum(-2))


class Scaled(nn.Embedding):
    """A subclass with a forward of its own, and a parameter that padding reaches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shift = nn.Parameter(torch.randn(3))

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * 1.5 + self.shift


class ScaledWords(Words):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.words = Scaled(7, 3, **options)


class Functional(Words):
    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(F.embedding(tokens, self.words.weight, 2)).sum(-2))


def check_gradients(stack: fs.AgentStack, tokens: Tensor) -> None:
    outputs = stack(tokens)
    weights = torch.randn_like(outputs)
    (outputs * weights).sum().backward()
    for agent in range(stack.agents):
        alone = stack.agent(agent)
        expected = alone(tokens[agent])
        (expected * weights[agent]).sum().backward()
        assert torch.allclose(outputs[agent], expected, atol=1e-6)
        for name, p in stack.named_parameters():
            assert torch.allclose(p.grad[agent], alone.get_parameter(name).grad, atol=1e-5), name


@pytest.mark.parametrize("by_frequency", [False, True])
@pytest.mark.parametrize("padding", [0, 4, -1])
@pytest.mark.parametrize("kind", [Words, ScaledWords])
def test_padding_rows_learn_nothing(
    kind: type[Words], padding: int, by_frequency: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    module = kind(padding_idx=padding, scale_grad_by_freq=by_frequency)
    # padding need not be zero
    nn.init.normal_(module.words.weight)
    stack = fs.AgentStack(module, 3, init="independent", seed=seed)
    tokens = torch.randint(7, (3, 5, 6))
    tokens[:, :, ::2] = padding % 7
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        check_gradients(stack, tokens)
    gradient = dict(stack.named_gradients())["words.weight"]
    assert (gradient[:, padding] == 0).all() and (gradient != 0).any()


def test_padding_outside_of_layers_is_taken_agent_after_agent(seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(Functional(), 3, init="independent", seed=seed)
    tokens = torch.randint(7, (3, 5, 6))
    tokens[:, :, 1] = 2
    assert "padding_idx" in str(stack.obstacle(tokens))
    with pytest.warns(RuntimeWarning, match="cannot map Functional: padding_idx"):
        check_gradients(stack, tokens)


def test_padding_that_is_no_row_is_refused_as_by_torch() -> None:
    class Beyond(Words):
        def forward(self, tokens: Tensor) -> Tensor:
            return F.embedding(tokens, self.words.weight, 7)

    with pytest.raises(AssertionError, match="Padding_idx must be within num_embeddings"):
        fs.AgentStack(Beyond(padding_idx=0), 2)(torch.randint(7, (2, 5)))
