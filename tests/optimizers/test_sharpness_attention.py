"""Sharpness of networks with attention, whose fused layers have no second derivatives."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastsaddle import AgentStack, sharpness

pytestmark = pytest.mark.usefixtures("one_thread")


class Encoder(nn.Module):
    """The layer whose evaluation torch fuses."""

    def __init__(self) -> None:
        super().__init__()
        self.e = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.o = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.e(x).mean(1))


class Products(nn.Module):
    """The same attention, that calls the function itself."""

    def __init__(self) -> None:
        super().__init__()
        self.projection, self.o = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in self.projection(x).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.o(mixed.mean(1))


class Written(Products):
    """The same with its products written out."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in self.projection(x).chunk(3, -1))
        mixed = (q @ k.mT / math.sqrt(2)).softmax(-1) @ v
        return self.o(mixed.transpose(1, 2).flatten(2).mean(1))


def data() -> tuple[Callable[..., Tensor], Tensor, Tensor]:
    return F.cross_entropy, torch.randn(10, 5, 4), torch.randint(3, (10,))


def test_an_encoder_has_the_values_of_plain_products() -> None:
    torch.manual_seed(0)
    module = Encoder()
    its = data()
    flags = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()
    for measure, value in ((sharpness.sam_sharpness, 0.02025), (sharpness.top_eigenvalue, 0.9184)):
        assert measure(module, *its) == pytest.approx(value, abs=5e-5)
        found = measure(AgentStack(module, 2), *its)
        assert found.tolist() == pytest.approx([value] * 2, abs=5e-5)
    assert module.training
    assert flags == (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
    )


MEASURES: dict[str, Callable] = {
    "loss": sharpness.mean_loss,
    "sam": lambda *its: sharpness.sam_sharpness(*its, rho=0.3),
    "top": lambda *its: sharpness.top_eigenvalue(*its, iterations=5, tolerance=1e-9),
    "trace": lambda *its: sharpness.trace(*its, probes=4).estimate,
    "surface": lambda *its: sharpness.loss_surface(*its, points=3),
}


@pytest.mark.filterwarnings("ignore:the top eigenvalue:RuntimeWarning")
@pytest.mark.parametrize("name", MEASURES)
def test_the_function_is_its_products_written_out(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    module, its = Products(), data()
    stack = AgentStack(module, 3, init="independent", seed=seed)
    written = Written()
    found = torch.as_tensor(MEASURES[name](stack, *its))
    for i in range(3):
        written.load_state_dict(stack.agent(i).state_dict())
        expected = torch.as_tensor(MEASURES[name](written, *its))
        assert torch.allclose(found[i].double(), expected.double(), rtol=1e-3, atol=2e-5)
        alone = torch.as_tensor(MEASURES[name](stack.agent(i), *its))
        assert torch.allclose(found[i].double(), alone.double(), rtol=1e-3, atol=2e-5)


def test_the_valley_between_encoders(seed: int) -> None:
    torch.manual_seed(seed)
    stack = AgentStack(Encoder(), 3, init="independent", seed=seed)
    found = sharpness.mean_valley(stack, *data())
    assert found.widths.shape == (3,) and (found.widths > 0).all()


def test_settings_are_restored_after_an_error(seed: int) -> None:
    def fail(outputs: Tensor, targets: Tensor) -> Tensor:
        assert not torch.backends.mha.get_fastpath_enabled()
        raise ArithmeticError("in the middle")

    torch.manual_seed(seed)
    module, (_, *its) = Encoder(), data()
    for was_on in (True, False):
        torch.backends.mha.set_fastpath_enabled(was_on)
        try:
            for model in (module, AgentStack(module, 2)):
                with pytest.raises(ArithmeticError, match="in the middle"):
                    sharpness.top_eigenvalue(model, fail, *its)
                assert torch.backends.mha.get_fastpath_enabled() == was_on
                assert torch.backends.cuda.flash_sdp_enabled()
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
