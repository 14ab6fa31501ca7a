"""Compressed gossip has several ways to the same numbers: no compression, one kernel or parts, a running sum."""

from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.comm import choco as module
from fastsaddle.compressors import (
    Compressor,
    Identity,
    RandomK,
    StochasticQuantizer,
    TopK,
)
from fastsaddle.kernels.op import ops
from tests.comm.test_choco import Own, each_order
from tests.optimizers.test_properties import METHODS, Run, problem_of

pytestmark = pytest.mark.usefixtures("one_thread")
STAR = fs.topology.star(5)
FIVE = {name: METHODS[name] for name in ("dsgd", "dsgdm", "qgm", "dsaddle", "qsaddle")}
each = pytest.mark.parametrize("name", FIVE)
BACKENDS = ("reference", "native")


def run_of(name: str, problem: dict[str, Any], groups: int, **options: Any) -> Run:
    """On a star; of two groups the second, all tensors but one, learns otherwise."""
    run = Run(name, STAR, problem, **options)
    if groups == 2:
        method: type[Any] = METHODS[name][0]
        own = METHODS[name][1]
        first, *rest = run.parameters
        given: list[Any] = [{"params": [first]}, {"params": rest, "lr": 0.02}]
        run.optimizer = method(given, topology=STAR, weight_decay=0.01, **own, **options)
    return run


def everything(run: Run) -> list[torch.Tensor]:
    optimizer = run.optimizer
    sent = torch.tensor([optimizer.bytes_sent, int(optimizer.rounds)])
    return [optimizer.rows.x.clone(), sent, *optimizer.flat_state.values()]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@each
@pytest.mark.parametrize("gamma", [1.0, 0.4])
def test_identity_is_no_compressor(name: str, gamma: float, seed: int) -> None:
    problem, runs = problem_of(5, seed), []
    for compressor in (None, Identity(), fs.Choco(Identity())):
        run = Run(name, STAR, problem, compressor=compressor, consensus_step=gamma)
        run.after(5)
        runs.append(everything(run))
        assert list(run.optimizer.flat_state) == list(
            filter(None, [run.optimizer.rule.ascent_state])
        )
        assert not run.optimizer.squares.any()
    assert equal(runs[0], runs[1]) and equal(runs[0], runs[2])


@each
@pytest.mark.parametrize("compressor", [Own(1.0, 1.0), TopK(1.0)], ids=["own", "top-k"])
def test_sending_everything_is_no_compression(name: str, compressor: Compressor, seed: int) -> None:
    problem = problem_of(5, seed)
    plain, choco = Run(name, STAR, problem), Run(name, STAR, problem, compressor=compressor)
    assert (choco.after(12) - plain.after(12)).abs().max() <= 2e-5
    state = choco.optimizer.rule.ascent_state
    if state is not None:
        moved = choco.optimizer.flat_state[state] - plain.optimizer.flat_state[state]
        assert (0.05 * moved).abs().max() <= 2e-5
    assert (choco.optimizer.squares[:, 1] <= 1e-12).all()


QUANTIZERS = [
    StochasticQuantizer(8),
    StochasticQuantizer(4, bucket=32),
    StochasticQuantizer(2),
    StochasticQuantizer(4, levels=5),
    StochasticQuantizer(8, bucket=1024, levels=100),
    StochasticQuantizer(4, levels=15),
]


def both_ways(
    monkeypatch: pytest.MonkeyPatch, choco: fs.Choco, run: Any
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What `run()` holds at last, in one kernel a step and in parts; squares within the op's tolerance."""
    assert module.fused(choco) is choco.compressor
    whole = run()
    with monkeypatch.context() as patch:
        patch.setattr(module, "fused", lambda _: None)
        parts = run()
    squares, others = whole.optimizer.squares, parts.optimizer.squares
    assert (squares > 0).all()
    assert torch.allclose(squares, others, rtol=2.0**-15, atol=0)
    return everything(whole), everything(parts)


def refuse_absent(backend: str) -> None:
    absent = [name for name, op in ops().items() if backend in op.unavailable("cpu")]
    if backend == "native" and absent:
        pytest.skip(f"native: not yet in {', '.join(absent)}")


@each
@each_order
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_one_kernel_has_the_bits_of_its_parts(
    quantizer: StochasticQuantizer,
    backend: str,
    order: Any,
    name: str,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse_absent(backend)
    choco, problem = fs.Choco(quantizer, order), problem_of(5, seed)
    options = {"compressor": choco, "consensus_step": 0.7, "seed": seed, "backend": backend}
    for groups in (1, 2):

        def run(groups: int = groups) -> Run:
            run = run_of(name, problem, groups, **options)
            run.after(4)
            return run

        assert equal(*both_ways(monkeypatch, choco, run))


@each_order
@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_bits_over_many_tiles(
    backend: str, order: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_absent(backend)
    problem = problem_of(12, seed, ((151, 131), (3,), (1009,)))
    choco = fs.Choco(StochasticQuantizer(8), order)

    def run() -> Run:
        run = Run("qsaddle", fs.topology.torus(3, 4), problem, compressor=choco, backend=backend)
        run.after(3)
        return run

    assert equal(*both_ways(monkeypatch, choco, run))


@each
def test_backends_and_threads_give_equal_bits(name: str, seed: int) -> None:
    problem = problem_of(5, seed)
    for compressor in (StochasticQuantizer(8), StochasticQuantizer(2, biased=True), RandomK(0.3)):
        runs = []
        for backend, threads in (("reference", 1), (None, 1), (None, 2)):
            torch.set_num_threads(threads)
            try:
                run = Run(name, STAR, problem, compressor=compressor, backend=backend)
                run.after(3)
            finally:
                torch.set_num_threads(1)
            runs.append(everything(run))
        assert equal(runs[0], runs[1]) and equal(runs[0], runs[2])


@each
@each_order
def test_running_sum_is_the_sum_of_copies(name: str, order: Any, seed: int) -> None:
    problem, runs = problem_of(5, seed), []
    for running in (False, True):
        choco = fs.Choco(Own(), order, running_sum=running)
        run = Run(name, STAR, problem, compressor=choco, consensus_step=0.7)
        runs.append(run.after(10))
    assert (runs[0] - runs[1]).abs().max() <= 1e-5
    held = run.optimizer.flat_state
    W = (STAR.W - STAR.W.diag().diag()).float()
    assert (held["weighted_sum"] - W @ held["x_hat"]).abs().max() <= 1e-5
