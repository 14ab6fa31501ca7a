"""What only a GPU can show; benchmarks/on_gpu.sh runs it. The `small` cases are for compute-sanitizer."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.kernels._op import Op, rooms, use_backend

pytestmark = pytest.mark.gpu


def on_gpu(value: Any) -> Any:
    return value.cuda() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("op", rooms().values(), ids=lambda op: op.name)
def test_small_room(op: Op, seed: int) -> None:
    for arguments in op.examples(5, 160, torch.Generator().manual_seed(seed)).values():
        # the sanitizer sees an access behind a row only where the row is the allocation
        got = {
            n: on_gpu(v).contiguous() if isinstance(v, torch.Tensor) else v
            for n, v in arguments.items()
        }
        expected = copy.deepcopy(arguments)
        with use_backend("triton"):
            op(*got.values())
        with use_backend("reference"):
            op(*expected.values())
        torch.cuda.synchronize()
        for name, value in got.items():
            if isinstance(value, torch.Tensor):
                assert op.agrees(name, arguments, value, expected[name]), name


def gradients_of(p: torch.Tensor, step: int) -> torch.Tensor:
    """Elementwise exact on every device: a fixed pattern plus a part of the model."""
    pattern = torch.arange(p.numel(), dtype=torch.float32).reshape(p.shape) % 17 - 8
    return (pattern * 2.0**-7 * (step % 3 + 1)).to(p.device) + p.detach() * 0.25


@pytest.mark.parametrize("method", ["DSGD", "DSGDm", "QGM"])
def test_trajectory_has_the_bits_of_the_cpu(method: str, seed: int) -> None:
    start = torch.randn(16, 1000, generator=torch.Generator().manual_seed(seed))
    models = [nn.Parameter(start.clone()), nn.Parameter(start.clone().cuda())]
    optimizers = [
        getattr(fs, method)([p], lr=0.1, topology="ring", weight_decay=1e-3) for p in models
    ]
    for step in range(12):
        for p, optimizer in zip(models, optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = 0.1 if step < 6 else 0.01
            p.grad.copy_(gradients_of(p, step))
            optimizer.step()
    assert torch.equal(models[0].detach(), models[1].detach().cpu())


def test_qsaddle_follows_the_cpu(seed: int) -> None:
    start = torch.randn(300, 640, generator=torch.Generator().manual_seed(seed))
    models = [nn.Parameter(start.clone()), nn.Parameter(start.clone().cuda())]
    optimizers = [fs.QSADDLe([p], lr=0.1, topology="ring", rho=0.1) for p in models]
    for step in range(8):
        for p, optimizer in zip(models, optimizers, strict=True):
            for half in (optimizer.perturb, optimizer.step):
                p.grad.copy_(gradients_of(p, step))
                half()
    assert (models[0].detach() - models[1].detach().cpu()).abs().max() < 1e-5


def test_a_non_finite_gradient_is_told_when_results_are_read() -> None:
    p = nn.Parameter(torch.randn(4, 64, device="cuda"))
    optimizer = fs.QGM([p], topology=fs.topology.from_matrix(torch.eye(4), allow_disconnected=True))
    before = p.detach().clone()
    p.grad.fill_(1.0)
    p.grad[2, 5] = float("nan")
    optimizer.step()
    assert torch.equal(p.detach()[2], before[2]) and not torch.equal(p.detach()[1], before[1])
    with pytest.raises(fs.NonFiniteGradientError, match=r"\[2\]"):
        optimizer.state_dict()


def test_step_is_captured_in_a_cuda_graph(seed: int) -> None:
    start = torch.randn(16, 4096, generator=torch.Generator().manual_seed(seed)).cuda()
    eager, captured = (nn.Parameter(start.clone()) for _ in range(2))
    optimizers = [fs.QSADDLe([p], topology="ring") for p in (eager, captured)]

    def both_phases(p: nn.Parameter, optimizer: fs.QSADDLe) -> None:
        for half in (optimizer.perturb, optimizer.step):
            torch.mul(p.detach(), 0.5, out=p.grad)
            half()

    both_phases(eager, optimizers[0])
    both_phases(captured, optimizers[1])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        both_phases(captured, optimizers[1])
    for _ in range(3):
        both_phases(eager, optimizers[0])
        graph.replay()
    assert torch.equal(eager.detach(), captured.detach())


def test_more_elements_than_32_bits_count() -> None:
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GB of free GPU memory")
    agents, columns = 3, 2**30
    x = torch.zeros(agents, columns, device="cuda")
    x[2, -1], x[1, 0] = 3.0, 6.0
    out = torch.full_like(x, float("nan"))
    neighbors, weights = (part.cuda() for part in fs.topology.ring(agents).mixing_lists())
    rooms()["mix_neighbors"](x, out, neighbors, weights)
    assert out[0, -1] == out[2, -1] and 0.99 < out[0, -1] < 1.01 and 1.99 < out[2, 0] < 2.01
    assert int(out.count_nonzero()) == 2 * agents
