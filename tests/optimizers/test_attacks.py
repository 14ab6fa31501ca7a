"""What once went wrong without a word: names taken twice, numbers for each agent, late groups, steps within steps."""

import copy
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import fastsaddle as fs

pytestmark = pytest.mark.usefixtures("one_thread")
N = 32


def stacked(*shapes: tuple[int, ...], agents: int = 4) -> list[Parameter]:
    return [Parameter(torch.randn(agents, *shape)) for shape in shapes]


def give(parameters: list[Parameter]) -> None:
    for p in parameters:
        p.grad = torch.randn_like(p)


def closure(optimizer: Any, parameters: list[Parameter]) -> Any:
    def evaluate() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.stack([p.square().sum() for p in parameters]).sum()
        loss.backward()
        return loss

    return evaluate


class Own(fs.rules.Rule):
    def step(self, rows: Any, comm: Any) -> None:
        rows.x.copy_(comm.mixed(rows.x - rows.lr * rows.g))


@pytest.mark.parametrize("name", ["lr", "weight_decay", "rho", "params", "maximize"])
def test_hyperparameters_of_two_parts_differ(name: str) -> None:
    rule = type("Named", (Own,), {"hyperparameters": {name: fs.rules.Range(0, 9, default=1.0)}})
    with pytest.raises(ValueError, match=f"must differ, got {name}"):
        fs.Optimizer(stacked((3,)), 0.01, gradient=fs.gradients.SAM(), rule=rule())


@pytest.mark.parametrize("name", ["x_hat", "sharp_direction", "step"])
def test_states_of_two_parts_differ(name: str) -> None:
    rule = type("Named", (Own,), {"states": (fs.rules.State(name),)})
    gossip = fs.comm.Gossip("ring", fs.compressors.TopK(0.5))
    look = fs.gradients.SAM(sam=fs.LookSAM(2))
    with pytest.raises(ValueError, match=f"must differ, got {name}"):
        fs.Optimizer(stacked((3,)), gradient=look, rule=rule(), communicator=gossip)


@pytest.mark.parametrize(
    "part",
    [
        lambda v: (fs.gradients.Mixed(), fs.rules.GUT(tracking=v, momentum=0.3)),
        lambda v: (fs.gradients.Mixed(), fs.rules.GUT(momentum=v)),
        lambda v: (None, fs.rules.QGAdam(eps=v)),
    ],
)
def test_a_number_for_each_agent(part: Any) -> None:
    """As many agents as columns, so that a number for each agent could pass for one for each column."""
    values = torch.linspace(0.1, 0.9, N)
    start = torch.randn(N, N)

    def trained(value: Any) -> torch.Tensor:
        models = Parameter(start.clone())
        gradient, rule = part(value)
        alone = fs.comm.Gossip(fs.topology.ring(N), consensus_step=0.0)
        optimizer = fs.Optimizer([models], gradient=gradient, rule=rule, communicator=alone)
        for _ in range(3):
            optimizer.step(closure(optimizer, [models]))
        return models.detach()

    together = trained(values)
    for agent in (0, 7, N - 1):
        single = trained(float(values[agent]))
        torch.testing.assert_close(together[agent], single[agent])


def test_local_optimizers_have_rates_of_their_own() -> None:
    models = Parameter(torch.zeros(4, 2, 4))
    rates = torch.tensor([0.1, 0.2, 0.3, 0.4])
    # its code would take a rate for each agent as one for each column
    rule = fs.rules.Torch(torch.optim.RAdam)
    alone = fs.comm.Gossip("ring", consensus_step=0.0)
    optimizer = fs.Optimizer([models], rates, rule=rule, communicator=alone)
    models.grad = torch.ones_like(models)
    optimizer.step()
    torch.testing.assert_close(models.detach(), -rates[:, None, None].expand(4, 2, 4))


def test_elastic_has_one_pull() -> None:
    with pytest.raises(ValueError, match="one pull"):
        fs.EASGD(stacked((4, 8), agents=N), agents=N, pull=torch.linspace(0, 1, N))


@pytest.mark.parametrize("named", [fs.RelaySGD, fs.QGAdam])
def test_counted_steps_come_with_what_they_left(named: type[Any]) -> None:
    models, graph = stacked((3,)), fs.topology.chain(4)
    before = fs.DSGD(models, topology=graph, compressor=fs.compressors.TopK(0.5))
    after = named(stacked((3,)), topology=graph)
    after.load_state_dict(before.state_dict())
    give(models)
    before.step()
    with pytest.raises(ValueError, match="state step of parameter 0 must come with"):
        after.load_state_dict(before.state_dict())


@pytest.mark.parametrize(
    "first", [fs.comm.Gossip("ring", every=3), fs.comm.Average(period=fs.QSR())]
)
def test_a_period_begins_where_another_communicator_left_off(first: Any) -> None:
    models = stacked((3,))
    before = fs.Optimizer(models, communicator=first)
    for _ in range(4):
        give(models)
        before.step()
    after = fs.LocalSGD(models, period=2, agents=4)
    after.load_state_dict(before.state_dict())
    for _ in range(2):
        give(models)
        after.step()
    assert models[0].detach().var(0).max() < 1e-12


def test_other_hyperparameters_are_checked_before_anything_moves() -> None:
    models = stacked((3,), (2,))
    groups = [{"params": [p]} for p in models]
    optimizer = fs.QGAdam(groups, topology="ring")
    give(models)
    before = [p.detach().clone() for p in models]
    for betas in ((0.9,), (0.9, 1.5)):
        optimizer.param_groups[1]["betas"] = betas
        with pytest.raises(ValueError, match="betas must be two numbers"):
            optimizer.step()
    assert all(map(torch.equal, models, before)) and not optimizer.rounds


@pytest.mark.parametrize("change", ["swap", "append", "remove"])
@pytest.mark.parametrize("perturbed", [False, True])
def test_groups_are_followed(change: str, perturbed: bool) -> None:
    models, new = stacked((3,), (2,)), Parameter(torch.randn(4, 3))
    optimizer = fs.QSADDLe(models, topology="ring")
    optimizer.step(closure(optimizer, models))
    listed = optimizer.param_groups[0]["params"]
    kept = optimizer.state[models[1]]["quasi_global"].clone()
    if perturbed:
        optimizer.perturb()
    if change == "swap":
        listed[0] = new
    elif change == "append":
        listed.append(new)
    else:
        del listed[0]
    optimizer.restore()
    gone, before = models[0].detach().clone(), new.detach().clone()
    twin = stacked((2,))[0]
    twin.data.copy_(models[1].detach())
    again = fs.QSADDLe([twin], topology="ring")
    again.state[twin]["quasi_global"].copy_(kept)
    optimizer.step(closure(optimizer, listed))
    assert torch.equal(new, before) == (change == "remove")
    assert torch.equal(models[0], gone) == (change != "append")
    if change == "remove":
        again.step(closure(again, [twin]))
        assert torch.equal(models[1], twin)


@pytest.mark.parametrize(
    "parts",
    [
        {"gradient": fs.gradients.Cross(), "rule": fs.rules.AdaptedMomentum()},
        {"gradient": fs.gradients.SAM(closure_passes=1)},
        {},
    ],
)
def test_a_step_within_a_step_is_refused(parts: dict[str, Any]) -> None:
    models = stacked((3,))
    optimizer = fs.Optimizer(models, communicator=fs.comm.Gossip("ring"), **parts)
    evaluate = closure(optimizer, models)
    evaluate()
    before = models[0].detach().clone()

    def stepping() -> torch.Tensor:
        loss = evaluate()
        optimizer.step()
        return loss

    with pytest.raises(RuntimeError, match="a step is in progress"):
        optimizer.step(stepping)
    assert torch.equal(models[0], before) and not optimizer.rounds
    evaluate()
    optimizer.step(evaluate)
    assert int(optimizer.rounds) == 1


def test_a_shallow_copy_shares_everything() -> None:
    models = stacked((3,))
    optimizer = fs.DSGDm(models, topology="ring")
    copied = copy.copy(optimizer)
    for one in (optimizer, copied):
        give(models)
        one.step()
    saved = optimizer.state_dict()["state"][0]["momentum_buffer"]
    assert torch.equal(saved, copied.flat_state["momentum_buffer"][:, :3])
    assert torch.equal(saved, optimizer.flat_state["momentum_buffer"][:, :3])


@pytest.mark.parametrize("topology", ["ring", None])
def test_the_first_group_may_be_empty(topology: Any) -> None:
    models = stacked((3,))
    before = models[0].detach().clone()
    optimizer = fs.DSGDm([{"params": []}, {"params": models}], topology=topology)
    give(models)
    optimizer.step()
    assert not torch.equal(models[0], before)
