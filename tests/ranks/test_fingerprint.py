"""Ranks that make different optimizers are told so, all of them, before anything moves."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.ranks import Placement, ThreadTransport
from fastsaddle.ranks.thread_transport import run_in_threads

RANKS = 4
Made = Callable[..., Any]


def made(
    make: Callable[[int, list[torch.nn.Parameter], Placement], Any],
    counts: tuple[int, ...] = (1, 2, 1, 2),
) -> list[Any]:
    """What each rank makes of its parameters, or the error that it raised."""

    def work(transport: ThreadTransport) -> Any:
        here = Placement(counts, transport)
        shapes = ((here.agents, 3, 2), (here.agents, 5))
        params = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
        return make(transport.rank, params, here)

    return run_in_threads(len(counts), work, timeout=10)


def qsaddle(params: Any, here: Placement, **other: Any) -> fs.Optimizer:
    return fs.QSADDLe(params, **{"lr": 0.1, "topology": "ring", "placement": here, **other})


def chain_of(n: int, weight: float) -> fs.topology.Topology:
    W = torch.eye(n, dtype=torch.float64)
    for i in range(n - 1):
        W[i, i + 1] = W[i + 1, i] = weight
        W[i, i] -= weight
        W[i + 1, i + 1] -= weight
    return fs.topology.from_matrix(W)


# what rank 2 makes otherwise, and what is said
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "lr": ({"lr": 0.2}, r"lr of parameter group 0 .* 0\.1 on ranks 0, 1, 3 and 0\.2 on rank 2"),
    "rho": ({"rho": 0.2}, "rho of parameter group 0 .* on rank 2"),
    "option": ({"adaptive": True}, r"gradient .*adaptive=False.* and .*adaptive=True.* on rank 2"),
    "graph": ({"topology": "star"}, "communicator .*'ring'.* and .*'star'.* on rank 2"),
    "W": (
        {"topology": chain_of(6, 0.25)},
        "communicator .* SHA-256 of W .* on rank 2",
    ),
    "gamma": ({"consensus_step": 0.5}, "communicator .*consensus_step=0.5.* on rank 2"),
    "seed": ({"seed": 7}, "seed .* 0 on ranks 0, 1, 3 and 7 on rank 2"),
    "nonfinite": ({"nonfinite": "skip"}, "nonfinite .* raise on ranks 0, 1, 3 and skip on rank 2"),
    "state": ({"state_dtype": torch.bfloat16}, "state_dtype .* torch.bfloat16 on rank 2"),
    "backend": (
        {"backend": "reference"},
        "backend of the kernels .* native .* and reference on rank 2",
    ),
    "sam": ({"sam": fs.LookSAM(3)}, "gradient .*FullSAM.* and .*LookSAM.* on rank 2"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_every_rank_is_told_what_differs_and_where(what: str) -> None:
    other, said = OTHERS[what]
    if what == "backend" and "native" in fs.kernels.mix_neighbors.unavailable("cpu"):
        pytest.skip("native library not built")
    usual = {"topology": chain_of(6, 0.3)} if what == "W" else {}

    def make(rank: int, params: Any, here: Placement) -> Any:
        return qsaddle(params, here, **(other if rank == 2 else usual))

    found = made(make)
    for error in found:
        assert isinstance(error, ValueError)
        assert str(error) == str(found[0])
    with pytest.raises(ValueError, match=said):
        raise found[0]


def test_optimizers_and_layouts_that_differ() -> None:
    def other_class(rank: int, params: Any, here: Placement) -> Any:
        kind = fs.QGM if rank == 1 else fs.DSGDm
        return kind(params, lr=0.1, topology="ring", placement=here)

    def other_shape(rank: int, params: Any, here: Placement) -> Any:
        if rank == 3:
            params[1] = torch.nn.Parameter(torch.zeros(here.agents, 6))
        return qsaddle(params, here)

    def more(rank: int, params: Any, here: Placement) -> Any:
        if rank == 3:
            params.append(torch.nn.Parameter(torch.zeros(here.agents, 6)))
        return qsaddle(params, here)

    def other_counts(rank: int, params: Any, here: Placement) -> Any:
        counts = (1, 2, 2, 1) if rank == 0 else here.counts
        return qsaddle(params, Placement(counts, here.transport))

    for make, said in (
        (other_class, r"the optimizer .*DSGDm on ranks 0, 2, 3 and .*QGM on rank 1"),
        (other_shape, r"parameter 1 of parameter group 0 .*\[5\] .* and \[6\] .* on rank 3"),
        (more, "number of parameters of parameter group 0 .* 2 on ranks 0, 1, 2 and 3 on rank 3"),
        (other_counts, r"counts of agents .*\[1, 2, 2, 1\] on rank 0 and \[1, 2, 1, 2\] on ranks"),
    ):
        for error in made(make):
            assert isinstance(error, ValueError)
            with pytest.raises(ValueError, match=said):
                raise error


def test_a_rank_that_cannot_make_its_optimizer_does_not_let_others_wait() -> None:
    def make(rank: int, params: Any, here: Placement) -> Any:
        return qsaddle(params, here, topology="ladder" if rank == 2 else "ring")

    errors = made(make)
    assert all(isinstance(error, ValueError) for error in errors)
    assert "rank 2 cannot take part: ValueError: " in str(errors[0]) == str(errors[3])
    assert "ladder" in str(errors[0]) and "rank 2" not in str(errors[2])


def test_numbers_of_single_agents_may_differ() -> None:
    def make(rank: int, params: Any, here: Placement) -> Any:
        own = 0.1 * (1 + torch.arange(here.first_agent, here.first_agent + here.agents))
        return qsaddle(params, here, lr=own, rho=own, momentum=torch.tensor(0.8))

    assert all(isinstance(found, fs.Optimizer) for found in made(make))


def test_every_optimizer_passes_where_all_make_the_same() -> None:
    for kind in (fs.DSGD, fs.GradientTracking, fs.NGM, fs.GUT, fs.QGAdam):

        def make(rank: int, params: Any, here: Placement, kind: Any = kind) -> Any:
            return kind(params, lr=0.1, topology="ring", placement=here)

        assert all(isinstance(found, fs.Optimizer) for found in made(make))

    def own(rank: int, params: Any, here: Placement) -> Any:
        rule = fs.rules.Torch(lambda p: torch.optim.Adam(p))
        return fs.Optimizer(
            params, lr=0.1, rule=rule, communicator=fs.comm.Gossip("ring"), placement=here
        )

    found = made(own)
    assert all(isinstance(each, fs.Optimizer) for each in found), found
