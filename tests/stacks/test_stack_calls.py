"""What a stack is called with and gives back: several inputs, keywords, trees, recurrent layers, attention."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import fastsaddle as fs
from fastsaddle.stacks.settings import without_fast_path

pytestmark = pytest.mark.usefixtures("one_thread")
SLOW = "ignore:(?s).*There is a performance drop:UserWarning"


class Several(nn.Module):
    """Positional and keyword inputs, a tree of them, flags and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(
        self,
        x: Tensor,
        more: dict[str, Any],
        scale: float = 1.0,
        *,
        mask: Tensor | None = None,
        activation: str = "none",
    ) -> dict[str, Any]:
        y = self.a(x) * scale + self.b(more["list"][1])
        y = y if mask is None else y * mask[..., None]
        y = torch.tanh(y) if activation == "tanh" else y
        return {"y": y, "pair": (y.mean(0), None)}


def test_several_inputs_keywords_and_trees(seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(Several(), 3, init="independent", seed=seed)
    x, z = torch.randn(3, 5, 4), torch.randn(3, 5, 2)
    mask = torch.rand(3, 5) > 0.5
    more: dict[str, Any] = {"list": [None, z], "name": "any"}
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((x, more), {}),
        ((x, more, 2.0), {"mask": None}),
        ((x, more), {"mask": mask, "activation": "tanh", "scale": 0.5}),
        ((), {"more": more, "x": x, "mask": mask}),
    ]
    for args, kwargs in calls:
        stack.zero_grad()
        found = stack(*args, **kwargs)
        found["y"].sum().backward()
        assert found["pair"][1] is None and found["pair"][0].shape == (3, 3)
        for i in range(3):
            model = stack.agent(i)
            own = {"list": [None, z[i]], "name": "any"}
            its = {"x": x[i], "more": own, "mask": mask[i]}
            expected = model(
                *(its["x"] if a is x else own if a is more else a for a in args),
                **{k: its[k] if torch.is_tensor(v) or v is more else v for k, v in kwargs.items()},
            )
            expected["y"].sum().backward()
            assert torch.allclose(found["y"][i], expected["y"], atol=1e-6)
            for name, p in stack.named_parameters():
                assert torch.allclose(p.grad[i], model.get_parameter(name).grad, atol=1e-5)


def test_every_tensor_must_be_stacked() -> None:
    stack = fs.AgentStack(Several(), 3)
    x, z = torch.randn(3, 5, 4), torch.randn(3, 5, 2)
    for args, kwargs, place in (
        ((x, {"list": [None, z[0]]}), {}, r"got \(5, 2\) for argument 1\['list'\]\[1\]$"),
        ((x[:2], {"list": [None, z]}), {}, r"got \(2, 5, 4\) for argument 0$"),
        ((x, {"list": [None, z]}), {"mask": torch.tensor(1.0)}, r"got \(\) for mask$"),
    ):
        with pytest.raises(ValueError, match=rf"^inputs must be \[3, batch, \.\.\.\].*{place}"):
            stack(*args, **kwargs)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_with_states(kind: type[nn.RNNBase], seed: int) -> None:
    torch.manual_seed(seed)
    layer = kind(2, 4, num_layers=2, batch_first=True)
    stack = fs.AgentStack(layer, 3, init="independent", seed=seed)
    x, h = torch.randn(3, 5, 6, 2), torch.randn(3, 2, 5, 4)
    start = (h, h.flip(1)) if kind is nn.LSTM else h
    with pytest.warns(RuntimeWarning, match=f"cannot map {kind.__name__}: Batching rule"):
        out, state = stack(x, start)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        # truncated: what comes out goes in again, here without its past
        again, _ = stack(x, detached(state))
    (out.sum() + again.sum()).backward()
    for i in range(3):
        model = stack.agent(i)
        own = tuple(s[i] for s in start) if kind is nn.LSTM else start[i]
        expected, last = model(x[i], own)
        further, _ = model(x[i], detached(last))
        (expected.sum() + further.sum()).backward()
        assert torch.allclose(out[i], expected, atol=1e-6)
        assert torch.allclose(again[i], further, atol=1e-6)
        states = (state, last) if kind is nn.LSTM else ((state,), (last,))
        for a, b in zip(*states, strict=True):
            assert torch.allclose(a[i], b, atol=1e-6)
        for name, p in stack.named_parameters():
            assert torch.allclose(p.grad[i], model.get_parameter(name).grad, atol=1e-5), name


def detached(state: Any) -> Any:
    return tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()


class Packing(nn.Module):
    """Packs padded inputs of given lengths itself."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.GRU(2, 4, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.rows(packed)[0], batch_first=True, total_length=6)[0]


@pytest.mark.filterwarnings(SLOW)
def test_packed_sequences(seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(Packing(), 3, init="independent", seed=seed)
    x, lengths = torch.randn(3, 5, 6, 2), torch.randint(1, 7, (3, 5))
    with pytest.warns(RuntimeWarning, match="agents are run one after another"):
        found = stack(x, lengths)
    found.sum().backward()
    for i in range(3):
        model = stack.agent(i)
        expected = model(x[i], lengths[i])
        expected.sum().backward()
        assert torch.equal(found[i], expected)
        for name, p in stack.named_parameters():
            assert torch.allclose(p.grad[i], model.get_parameter(name).grad, atol=1e-5), name
    packed = pack_sequence([torch.randn(3, 2), torch.randn(2, 2)])
    rule = "got a PackedSequence for argument 0: pass padded inputs with their lengths"
    with pytest.raises(ValueError, match=rule):
        fs.AgentStack(nn.GRU(2, 4), 2)(packed)


@pytest.mark.filterwarnings(SLOW)
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_attention_layers(training: bool, grad: bool, seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    stack = fs.AgentStack(layer, 3, init="independent", seed=seed).train(training)
    x = torch.randn(3, 5, 6, 4)
    causal = nn.Transformer.generate_square_subsequent_mask(6)
    padding = torch.zeros(3, 5, 6, dtype=torch.bool)
    padding[:, :, 4:] = True
    was_on = torch.backends.mha.get_fastpath_enabled()
    with torch.set_grad_enabled(grad), warnings.catch_warnings():
        # all of it is mapped
        warnings.simplefilter("error", RuntimeWarning)
        for kwargs in ({}, {"src_key_padding_mask": padding}):
            found = stack(x, **kwargs)
            for i in range(3):
                expected = stack.agent(i)(x[i], **{k: v[i] for k, v in kwargs.items()})
                kept = slice(None, 4) if kwargs else slice(None)
                assert torch.allclose(found[i][:, kept], expected[:, kept], atol=1e-5)
        # one mask for all agents is given to each
        found = stack(x, src_mask=causal.expand(3, 6, 6))
        assert torch.allclose(found[1], stack.agent(1)(x[1], src_mask=causal), atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled() == was_on


@pytest.mark.filterwarnings(SLOW)
def test_attention_without_its_weights_gives_none(seed: int) -> None:
    torch.manual_seed(seed)
    stack = fs.AgentStack(nn.MultiheadAttention(4, 2, batch_first=True), 2)
    x = torch.randn(2, 3, 5, 4)
    found, weights = stack(x, x, value=x, need_weights=False)
    assert weights is None and torch.allclose(
        found[1], stack.agent(1)(x[1], x[1], x[1])[0], atol=1e-5
    )


def test_the_fast_path_is_restored_after_an_error() -> None:
    class Fails(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("of the module")

    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(KeyError, match="of the module"):
        fs.AgentStack(Fails(2, 2), 2)(torch.ones(2, 1, 2))
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_fast_path_is_restored_by_the_last_that_leaves() -> None:
    """As by two threads, of which the second restored what the first had set: for good."""
    first, second = without_fast_path(), without_fast_path()
    was_on = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    try:
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not torch.backends.mha.get_fastpath_enabled()
        second.__exit__(None, None, None)
        assert torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(was_on)


def test_numbers_decide_which_way_a_module_goes(seed: int) -> None:
    """What was tried with one number is tried again with another, and with True, which equals 1; not so with floats."""

    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.cell = nn.Linear(4, 4), nn.GRU(4, 4, batch_first=True)
            self.calls = 0

        def forward(self, x: Tensor, which: Any, scale: float = 1.0) -> Tensor:
            self.calls += 1
            return scale * (self.cell(x)[0] if which == 2 or which is True else self.linear(x))

    torch.manual_seed(seed)
    x = torch.randn(3, 5, 6, 4)
    for which in (2, True):
        stack = fs.AgentStack(Choosing(), 3, init="independent", seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            assert torch.allclose(stack(x, 1)[2], stack.agent(2)(x[2], 1), atol=1e-6)
        with pytest.warns(RuntimeWarning, match="cannot map cell"):
            found = stack(x, which)
        assert torch.allclose(found[2], stack.agent(2)(x[2], which), atol=1e-6)
    stack = fs.AgentStack(Choosing(), 3)
    for count, scale in ((2, 0.5), (3, 0.25), (4, 2.0)):
        # one trial
        stack(x, 1, scale)
        assert stack.called.calls == count


def test_a_call_that_could_not_be_tried_is_tried_later(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first one inside the capture of a CUDA graph."""

    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count = self.count + 1
            return super().forward(x) * self.count

    torch.manual_seed(seed)
    stack = fs.AgentStack(Counting(), 3)
    x = torch.randn(3, 5, 4)
    with monkeypatch.context() as patched:
        patched.setattr("fastsaddle.stacks.mapping.trial", lambda *_: None)
        stack(x)
        assert stack.obstacle(x) is None
    before = stack.buffers["count"].clone()
    # it learns now that the buffer is assigned: backward needs the value as it was
    for _ in range(2):
        stack(x).sum().backward()
    assert torch.equal(stack.buffers["count"], before + 2)
