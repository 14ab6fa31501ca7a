"""Networks: published sizes, seeds that decide, unfit input, and gradients under both engines."""

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastsaddle as fs
from fastsaddle.sim import choices
from fastsaddle.sim.gradient_engine import GradientEngine
from fastsaddle.sim.networks import _torchvision

DIGITS, FASHION, CIFAR10, IMAGENET = (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224)
WORDS = 11
PARAMETERS = {
    ("mlp", DIGITS): 3_760,
    ("mlp", FASHION): 39_760,
    ("mlp", CIFAR10): 154_160,
    ("mlp:32", FASHION): 784 * 32 + 32 + 32 * 10 + 10,
    ("lenet5", FASHION): 61_706,
    ("lenet5", CIFAR10): 62_006,
    ("cnn5", CIFAR10): 76_010,
    ("cnn5", FASHION): 70_954,
    ("cnn5", DIGITS): 65_834,
    ("resnet20", CIFAR10): 272_474,
    ("resnet20:qgm", CIFAR10): 272_474,
    ("resnet20:groupnorm", CIFAR10): 272_474,
    ("vgg11", CIFAR10): 579_786,
    ("vgg11", FASHION): 579_786 - 2 * 9 * 16,
    ("mobilenet-v2", CIFAR10): 2_236_682,
    ("mobilenet-v2", FASHION): 2_236_682 - 2 * 9 * 32,
    ("resnet18", IMAGENET): 11_181_642,
}
# published with torchvision, for 1,000 classes
OF_IMAGENET = {"resnet18": 11_689_512, "mobilenet-v2": 3_504_872}
SMALL = {
    "mlp": (2, 3, 5),
    "lenet5": (1, 12, 13),
    "cnn5": (3, 9, 8),
    "resnet20": (3, 16, 17),
    "vgg11": (1, 29, 28),
    "mobilenet-v2": (3, 16, 17),
    "transformer": (7,),
}
VARIANTS = (
    "mlp:9",
    "resnet20:qgm",
    "resnet20:groupnorm",
    "transformer:12:1:3",
    "resnet18:groupnorm",
    "resnet18:batchnorm",
    "mobilenet-v2:groupnorm",
    "mobilenet-v2:batchnorm",
)
WITH_KINKS = ("mlp", "lenet5", "resnet20", "resnet20:groupnorm", "vgg11", "resnet18:groupnorm")
NETWORKS = (*choices.names("networks"), *VARIANTS)
AGENTS, BATCH, CLASSES = 3, 4, 5

pytestmark = pytest.mark.usefixtures("one_thread")


def build(text: str, shape: tuple[int, ...], classes: int = 10, seed: int = 0) -> nn.Module:
    """The network of an option; skips where it needs torchvision and there is none."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = choices.find(text, "networks")
        try:
            return network(
                shape=shape, classes=classes, vocabulary=WORDS if len(shape) == 1 else None
            )
        except ImportError as error:
            if error.name != "torchvision":
                raise
            pytest.skip(str(error))


def small_shape(text: str) -> tuple[int, ...]:
    return SMALL.get(text.split(":")[0], (3, 32, 33))


def samples(shape: tuple[int, ...], *leading: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if len(shape) == 1:
        return torch.randint(0, WORDS, (*leading, *shape), generator=generator)
    return torch.randn(*leading, *shape, generator=generator)


@pytest.mark.parametrize(("text", "shape"), PARAMETERS)
def test_parameters_and_outputs(text: str, shape: tuple[int, int, int], seed: int) -> None:
    model = build(text, shape, seed=seed)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[text, shape]
    assert not list(model.buffers())
    outputs = model(samples(shape, 2, seed=seed))
    assert outputs.shape == (2, 10)
    assert outputs.isfinite().all()
    assert outputs.std() > 0


@pytest.mark.parametrize("norm", ["evonorm", "groupnorm", "batchnorm"])
@pytest.mark.parametrize("name", OF_IMAGENET)
def test_torchvision_parameters(name: str, norm: str) -> None:
    model = build(f"{name}:{norm}", IMAGENET, classes=1000)
    assert sum(p.numel() for p in model.parameters()) == OF_IMAGENET[name]
    assert bool(list(model.buffers())) == (norm == "batchnorm")
    activations = [m for m in model.modules() if isinstance(m, (nn.ReLU, nn.ReLU6))]
    assert bool(activations) == (norm != "evonorm")
    assert not any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("mobilenet-v2", 32, 4),
        ("mobilenet-v2", 63, 8),
        ("mobilenet-v2", 64, 2),
        ("mobilenet-v2", 224, 7),
        ("resnet18", 32, 1),
        ("resnet18", 224, 7),
    ],
)
def test_strides_of_torchvision_networks(name: str, side: int, expected: int, seed: int) -> None:
    model = build(name, (1, side, side))
    seen: list[tuple[int, ...]] = []

    def keep(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
        seen.append(tuple(outputs.shape[2:]))

    last = dict(model.named_modules())["features" if name == "mobilenet-v2" else "layer4"]
    last.register_forward_hook(keep)
    model(samples((1, side, side), 1, seed=seed))
    assert seen == [(expected, expected)]


@pytest.mark.parametrize("text", NETWORKS)
def test_seed_decides_and_nothing_else(text: str, seed: int) -> None:
    shape = small_shape(text)
    first = build(text, shape, seed=seed)
    torch.rand(3)
    again, other = (build(text, shape, seed=s) for s in (seed, seed ^ 1))
    assert _same(first, again)
    assert not _same(first, other)


def test_weights_are_drawn_in_the_order_of_the_layers(seed: int) -> None:
    """Runs that are stored name their seed only: the first weights must stay what they were."""

    def conv(inputs: int, outputs: int) -> list[Tensor]:
        layer = nn.Conv2d(inputs, outputs, 3, bias=False)
        nn.init.normal_(layer.weight, std=math.sqrt(2 / (9 * outputs)))
        return [layer.weight, torch.ones(outputs, 1, 1), torch.zeros(outputs, 1, 1)]

    def plain(*layers: nn.Module) -> list[Tensor]:
        return [p for layer in layers for p in layer.parameters()]

    def lenet5() -> list[Tensor]:
        convolutions = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        return plain(*convolutions, nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10))

    def cnn5() -> list[Tensor]:
        convolutions = [*conv(3, 32), *conv(32, 32), *conv(32, 64), *conv(64, 64)]
        return [*convolutions, *plain(nn.Linear(1024, 10))]

    expected: dict[str, Callable[[], list[Tensor]]] = {
        "mlp": lambda: plain(nn.Linear(3072, 50), nn.Linear(50, 10)),
        "lenet5": lenet5,
        "cnn5": cnn5,
    }
    for name, draw in expected.items():
        parameters = list(build(name, CIFAR10, seed=seed).parameters())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = draw()
        assert all(torch.equal(p, q) for p, q in zip(parameters, drawn, strict=True)), name


@pytest.mark.parametrize(
    ("text", "smooth"),
    [(text, True) for text in NETWORKS] + [(text, False) for text in WITH_KINKS],
)
def test_engines_agree_with_plain_modules(
    text: str, smooth: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, and tightly where no kink can put a value on its other side in float32."""
    shape = small_shape(text)
    model = build(text, shape, CLASSES, seed)
    if smooth:
        _smoothen(model)
        monkeypatch.setattr(F, "hardswish", F.silu)
    tolerance = 1e-4 if smooth else 0.1
    stack = fs.AgentStack(model, AGENTS)
    with torch.no_grad():
        stack.x.add_(0.02 * samples(tuple(stack.x.shape), seed=seed))
    inputs = samples(shape, AGENTS, BATCH, seed=seed)
    labels = torch.randint(
        0, CLASSES, (AGENTS, BATCH), generator=torch.Generator().manual_seed(seed)
    )
    start = {name: b.clone() for name, b in stack.buffers.items()}
    plain = [stack.agent(i).double() for i in range(AGENTS)]
    wanted = []
    for i, module in enumerate(plain):
        batch = inputs[i] if len(shape) == 1 else inputs[i].double()
        wanted.append(F.cross_entropy(module(batch), labels[i]))
        wanted[i].backward()
    for engine in ("vmap", "loop"):
        for name, b in stack.buffers.items():
            b.copy_(start[name])
        losses = GradientEngine(stack, F.cross_entropy, engine).gradients(inputs, labels)
        found = dict(stack.named_gradients())
        for i, module in enumerate(plain):
            torch.testing.assert_close(losses[i].double(), wanted[i], rtol=1e-4, atol=1e-5)
            gradients = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
            assert gradients.keys() == found.keys()
            whole = _norm(gradients.values())
            difference = _norm(found[name][i] - g for name, g in gradients.items())
            assert whole > 0 and difference < tolerance * whole, engine
            for name, b in module.named_buffers():
                torch.testing.assert_close(
                    stack.buffers[name][i].double(), b.double(), rtol=1e-3, atol=1e-5
                )


@pytest.mark.parametrize("text", NETWORKS)
def test_agents_are_tested_together_as_alone(text: str, seed: int) -> None:
    shape = small_shape(text)
    stack = fs.AgentStack(build(text, shape, CLASSES, seed), AGENTS)
    with torch.no_grad():
        stack.x.add_(0.02 * samples(tuple(stack.x.shape), seed=seed))
        inputs = samples(shape, AGENTS, BATCH, seed=seed)
        stack.train()(inputs)
        together = stack.eval()(inputs)
        for i in range(AGENTS):
            alone = stack.agent(i).eval()(inputs[i])
            torch.testing.assert_close(together[i], alone, rtol=1e-3, atol=1e-4)


def test_transformer_knows_the_order_of_words(seed: int) -> None:
    model = build("transformer", (6,), seed=seed)
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    assert not torch.allclose(model(tokens), model(tokens.flip(1)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("lenet5", DIGITS, "lenet5 needs images of at least 12x12, got 8x8: use mlp or cnn5"),
        ("lenet5", (1, 40, 11), "at least 12x12, got 40x11"),
        ("cnn5", (1, 7, 9), "cnn5 needs images of at least 8x8, got 7x9: use mlp"),
        ("resnet20", (1, 9, 7), "resnet20 needs images of at least 8x8, got 9x7"),
        ("vgg11", (3, 27, 32), "vgg11 needs images of at least 28x28, got 27x32: use cnn5 or"),
        ("resnet18", (3, 31, 32), "resnet18 needs images of at least 32x32"),
        ("mobilenet-v2", (3, 7, 8), "mobilenet-v2 needs images of at least 8x8"),
        *(
            (name, (128,), rf"{name} needs images \(.*\), got samples of shape \(128,\): use tr")
            for name in ("lenet5", "cnn5", "resnet20", "vgg11", "resnet18", "mobilenet-v2")
        ),
        ("mlp", (128,), "mlp needs images .*, got tokens of a vocabulary of 11: use transformer"),
        ("mlp:0", DIGITS, "mlp: hidden must be >= 1, got 0"),
        ("resnet20:bn", CIFAR10, "family must be one of ngc, qgm, groupnorm, got 'bn'"),
        ("resnet18:bn", CIFAR10, "norm must be one of evonorm, groupnorm, batchnorm, got 'bn'"),
        ("mobilenet-v2:bn", CIFAR10, "norm must be one of evonorm, .*, got 'bn'"),
        ("transformer", CIFAR10, r"transformer needs tokens, .*, got shape \(3, 32, 32\) and"),
        ("transformer:0", (7,), "transformer: width must be >= 1, got 0"),
        ("transformer:8:0", (7,), "transformer: layers must be >= 1, got 0"),
        ("transformer:8:1:-2", (7,), "transformer: heads must be >= 1, got -2"),
        ("transformer:10:1:4", (7,), "width must be a multiple of heads 4, got 10"),
    ],
)
def test_unfit_input_is_refused(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(text, shape)


def test_smallest_images_are_taken(seed: int) -> None:
    for text, shape in {
        "lenet5": (1, 12, 12),
        "cnn5": (1, 8, 8),
        "resnet20:qgm": (1, 8, 8),
        "vgg11": (1, 28, 28),
    }.items():
        assert build(text, shape)(samples(shape, 3, seed=seed)).isfinite().all(), text


def test_numbers_without_a_grid_go_to_the_mlp(seed: int) -> None:
    model = choices.find("mlp", "networks")(shape=(13,), classes=3, vocabulary=None)
    assert model(samples((2, 13), seed=seed)).shape == (2, 3)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet-v2"])
def test_without_torchvision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = choices.find(name, "networks")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
    with pytest.raises(ImportError, match=rf"^{name} needs torchvision: pip install 'fast") as seen:
        network(shape=CIFAR10, classes=10, vocabulary=None)
    assert "torchvision" in str(seen.value.__cause__) and "\n" not in str(seen.value)


def test_torchvision_for_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError(f"operator {name}::nms does not exist\nand more lines")

    monkeypatch.setattr(_torchvision, "importlib", type("", (), {"import_module": fail}))
    expected = r"'fastsaddle\[sim\]' \(RuntimeError: operator torchvision.models::nms does not ex"
    with pytest.raises(ImportError, match=expected) as seen:
        _torchvision.torchvision_models("resnet18")
    assert "\n" not in str(seen.value)


def _same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def _smoothen(model: nn.Module) -> None:
    for layer in list(model.modules()):
        for name, child in layer.named_children():
            if isinstance(child, (nn.ReLU, nn.ReLU6)):
                setattr(layer, name, nn.SiLU())
            elif isinstance(child, nn.MaxPool2d):
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding)
                setattr(layer, name, pool)


def _norm(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack([part.double().norm() for part in parts]).norm()
