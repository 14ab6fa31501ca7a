"""Parameters lie in one flat buffer, yet tools and autograd find ordinary ones."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from tests.optimizers.interrupted_steps import Work
from tests.optimizers.optimizer_snapshots import equal

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = (fs.QGM, fs.QSADDLe)


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 400), nn.Tanh(), nn.Linear(400, 2))


@pytest.mark.parametrize("method", METHODS)
def test_safetensors_saves_all_of_a_model(method: Any, seed: int, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model = network(seed)
    optimizer = method(model.parameters(), lr=0.1)
    assert all(p.data_ptr() >= optimizer.rows.x.data_ptr() for p in model.parameters())
    safetensors.save_model(model, str(tmp_path / "model.safetensors"))
    saved = safetensors.load_file(tmp_path / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    other = network(seed + 1)
    assert safetensors.load_model(other, tmp_path / "model.safetensors") == (set(), [])
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_saved_parameter_is_as_small_as_it_is(seed: int) -> None:
    model = network(seed)
    fs.QGM(model.parameters(), lr=0.1)
    for p in model.parameters():
        assert p.untyped_storage().nbytes() == p.nbytes and p.storage_offset() == 0
    file = io.BytesIO()
    torch.save(model[2].bias, file)
    assert file.tell() < 2500
    alone = torch.load(io.BytesIO(file.getvalue()))
    assert torch.equal(alone, model[2].bias)


def test_the_buffer_lives_as_long_as_a_parameter(seed: int) -> None:
    model, twin = network(seed), network(seed)
    fs.QGM(model.parameters(), lr=0.1)
    # nobody else has the buffer now; what is made next would overwrite it
    filled = [torch.full((1, 4096), torch.nan) for _ in range(64)]
    assert len(filled) and all(map(torch.equal, model.parameters(), twin.parameters()))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.double().float()):
        assert all(map(torch.equal, copied.parameters(), twin.parameters()))


def test_parameters_without_elements_stay_where_they_are(seed: int) -> None:
    empty, full = nn.Parameter(torch.empty(4, 0, 3)), nn.Parameter(torch.ones(4, 5))
    optimizer = fs.QGM([empty, full], lr=0.1, topology="ring")
    for _ in range(2):
        optimizer.zero_grad()
        (full.cosh().sum() + empty.sum()).backward()
        optimizer.step()
    assert empty.shape == (4, 0, 3) and full.isfinite().all()


def perturb(work: Work) -> None:
    work.optimizer.perturb()


def restore(work: Work) -> None:
    work.optimizer.restore()


def refused(work: Work) -> None:
    """A rule that fails when models have moved already."""

    def finish(optimizer: Any) -> int:
        raise KeyError

    work.optimizer.communicator.finish = finish
    with pytest.raises(KeyError):
        work.optimizer.step(work.closure)


WRITERS: dict[str, tuple[str, Callable[[Work], None]]] = {
    "step": ("QGM", lambda work: work.optimizer.step()),
    "own rule": ("own rule", lambda work: work.optimizer.step()),
    "step of cross-gradients": ("NGM", lambda work: work.optimizer.step(work.closure)),
    "step between meetings": ("LocalSGD", lambda work: work.optimizer.step()),
    "synchronize": ("EASGD", lambda work: work.optimizer.synchronize()),
    "perturb": ("QSADDLe", perturb),
    "restore": ("QSADDLe", restore),
    "put back": ("own rule", refused),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_graph_from_before_a_write_is_refused(writer: str, seed: int) -> None:
    """Backpropagation would go through other values than the loss was taken at."""
    case, write = WRITERS[writer]
    work = Work(case, seed)
    work.closure()
    if writer == "restore":
        work.optimizer.perturb()
    losses = [p.square().sum() for p in work.parameters]
    write(work)
    for loss in losses:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_closures_at_other_models_see_their_own_graphs(seed: int) -> None:
    """Models are moved between a step's closures: a graph that one left to the next is refused."""
    work = Work("NGM", seed)
    losses: list[torch.Tensor] = []

    def closure() -> torch.Tensor:
        losses.append(work.parameters[0].square().sum())
        return work.closure()

    work.optimizer.step(closure)
    assert len(losses) == 3
    for loss in losses:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_state_that_is_no_tensor_is_refused(seed: int) -> None:
    work = Work("QGM", seed)
    work.optimizer.step(work.closure)
    state = copy.deepcopy(work.optimizer.state_dict())
    before = work.state()
    state["state"][1]["quasi_global"] = "lost"
    with pytest.raises(
        ValueError, match="quasi_global of parameter 1 must be a tensor, got 'lost'"
    ):
        work.optimizer.load_state_dict(state)
    assert equal(work.state(), before)
