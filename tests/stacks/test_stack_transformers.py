"""Models of Hugging Face's transformers, tiny and from their configurations, as agents of a stack."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastsaddle as fs

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:(?s).*There is a performance drop:UserWarning"),
]
SMALL = {"vocab_size": 17, "bos_token_id": 0, "eos_token_id": 1}


def bert(dropout: float) -> nn.Module:
    config = transformers.BertConfig(
        **SMALL,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def gpt2(dropout: float) -> nn.Module:
    config = transformers.GPT2Config(
        **SMALL,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        use_cache=False,
    )
    return transformers.GPT2LMHeadModel(config)


def llama(dropout: float) -> nn.Module:
    config = transformers.LlamaConfig(
        **SMALL,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
        attention_dropout=dropout,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config)


def batch(made: Callable[[float], nn.Module], masked: bool) -> dict[str, Tensor]:
    """Four agents' tokens, each agent with a rule of its own, and labels that follow from them."""
    tokens = torch.randint(3, 17, (4, 6, 8))
    if made is bert:
        labels = tokens[..., 0] % 3
    else:
        tokens[..., 1:] = (tokens[..., :1] + torch.arange(1, 8)) % 14 + 3
        labels = tokens
    found = {"input_ids": tokens, "labels": labels}
    if masked:
        found["attention_mask"] = torch.ones_like(tokens)
        found["attention_mask"][:, 1, 6:] = 0
    return found


METHODS: dict[str, Callable[..., fs.Optimizer]] = {"qgm": fs.QGM, "qsaddle": fs.QSADDLe}


def closure(model: Any, optimizer: fs.Optimizer, its: dict[str, Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        optimizer.zero_grad()
        outputs = model(**its)
        is_stack = isinstance(model, fs.AgentStack)
        loss = model.loss(lambda out: out.loss, outputs) if is_stack else outputs.loss
        loss.backward()
        return loss

    return run


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("made", [bert, gpt2, llama])
@pytest.mark.filterwarnings("ignore:torch.vmap cannot map:RuntimeWarning")
def test_agents_are_plain_models(
    made: Callable[[float], nn.Module], method: str, masked: bool, seed: int
) -> None:
    """Without mixing: each follows the model that is trained alone."""
    torch.manual_seed(seed)
    stack = fs.AgentStack(made(0.0).train(), 4, init="independent", seed=seed)
    alone = fs.topology.from_matrix(torch.eye(4), allow_disconnected=True)
    optimizer = METHODS[method](stack.parameters(), lr=0.05, topology=alone)
    models = [stack.agent(i) for i in range(4)]
    own = [METHODS[method](model.parameters(), lr=0.05) for model in models]
    for _ in range(3):
        its = batch(made, masked)
        loss = optimizer.step(closure(stack, optimizer, its))
        losses = [
            o.step(closure(model, o, {name: value[i] for name, value in its.items()}))
            for i, (model, o) in enumerate(zip(models, own, strict=True))
        ]
        assert torch.allclose(loss, torch.stack(losses).mean(), atol=1e-5)
    for i, model in enumerate(models):
        for name, p in stack.named_parameters():
            assert torch.allclose(p[i], model.get_parameter(name), atol=1e-5), name


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("made", [bert, gpt2])
def test_agents_on_a_ring_learn(
    made: Callable[[float], nn.Module], method: str, dropout: float, seed: int
) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(made(dropout).train(), 4)
    # at twice that rate heavy-ball momentum grows from some first models
    lr = 0.01 if method == "qgm" else 0.02
    optimizer = METHODS[method](stack.parameters(), lr=lr, topology="ring")
    its = batch(made, False)
    losses = [optimizer.step(closure(stack, optimizer, its)).item() for _ in range(110)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    # what a user does next
    mean = stack.consensus().eval()
    each = ({name: value[i] for name, value in its.items()} for i in range(4))
    # on all agents' data, which the first loss is of too
    assert sum(mean(**own).loss.item() for own in each) / 4 < losses[0]
    fresh = made(dropout)
    fresh.load_state_dict(stack.agent(2).state_dict())
    assert stack.load_state_dict(fresh.state_dict()).missing_keys == []


def test_caches_are_refused_in_words(seed: int) -> None:
    torch.manual_seed(seed)
    model = gpt2(0.0)
    stack = fs.AgentStack(model, 2)
    tokens = torch.randint(17, (2, 3, 8))
    with (
        pytest.warns(RuntimeWarning, match=r"must only return Tensors, got .*DynamicCache"),
        pytest.raises(ValueError, match=r"must return tensors.*DynamicCache.* for outputs\['"),
    ):
        stack(input_ids=tokens, use_cache=True)
