"""Quadratics and small networks whose sharpness the tests know by other means."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Quadratic(nn.Module):
    """1/2 x^T A x + b^T x, whatever the inputs: one output a sample. x lies in two parameters."""

    def __init__(self, A: np.ndarray, b: np.ndarray, x: np.ndarray) -> None:
        super().__init__()
        self.A, self.b = torch.from_numpy(A), torch.from_numpy(b)
        self.head = nn.Parameter(torch.from_numpy(x[:2].copy()))
        self.tail = nn.Parameter(torch.from_numpy(x[2:].copy())[:, None])

    def forward(self, inputs: Tensor) -> Tensor:
        x = torch.cat([self.head, self.tail.flatten()])
        return (x @ self.A @ x / 2 + self.b @ x).expand(len(inputs))


def mean_output(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def quadratic(
    seed: int, eigenvalues: list[float]
) -> tuple[Quadratic, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    n = len(eigenvalues)
    Q, _ = np.linalg.qr(random.normal(size=(n, n)))
    A = Q @ np.diag(eigenvalues) @ Q.T
    b, x = random.normal(size=(2, n))
    return Quadratic(A, b, x), A, b, x


def anything(samples: int) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, 1), torch.zeros(samples)


class Network(nn.Module):
    """A convolution, BatchNorm, dropout and a tied pair of layers, one parameter frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.first = nn.Linear(12, 12)
        self.second = nn.Linear(12, 12)
        self.second.weight = self.first.weight
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Linear(12, 4)
        self.last.bias.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        x = torch.tanh(self.norm(self.convolution(images))).flatten(1)
        x = self.dropout(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return self.last(x)


def network(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Network, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = Network().to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
        model.norm.get_buffer("running_mean").normal_()
        model.norm.get_buffer("running_var").uniform_(0.5, 2)
    return model, torch.randn(17, 2, 4, 4, dtype=dtype), torch.randint(4, (17,))


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """The mean cross entropy as a function of the flat vector of trained parameters, in evaluation."""
    model = copy.deepcopy(model).eval()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    parameters = dict(model.named_parameters())

    def function(x: Tensor) -> Tensor:
        parts = x.split([parameters[name].numel() for name in names])
        values = {n: part.view_as(parameters[n]) for n, part in zip(names, parts, strict=True)}
        values["calls"] = torch.zeros(())
        return F.cross_entropy(torch.func.functional_call(model, values, (inputs,)), targets)

    return function


def state(model: nn.Module) -> dict[str, object]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    bits = {name: tensor.detach().clone().numpy().tobytes() for name, tensor in tensors.items()}
    grads = {name: p.grad for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    needs = {name: p.requires_grad for name, p in model.named_parameters()}
    return {"bits": bits, "grads": grads, "modes": modes, "needs": needs}
