"""Copies of optimizers over processes, and their end: connections are shared, and buffers are not kept."""

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from fastsaddle.ranks.placement import Placement
from fastsaddle.ranks.thread_transport import run_in_threads
from tests.ranks.over_threads import closure_of

pytestmark = pytest.mark.usefixtures("one_thread")
COUNTS = (2, 1)


def made(here: Placement, start: torch.Tensor, **options: Any) -> Any:
    own = start[here.first_agent : here.first_agent + here.agents]
    return fs.QGM([nn.Parameter(own.clone())], lr=0.1, topology="ring", placement=here, **options)


def in_threads(work: Any) -> list[Any]:
    found = run_in_threads(len(COUNTS), lambda t: work(Placement(COUNTS, t)), timeout=20)
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return found


@pytest.mark.parametrize("compressor", [None, fs.compressors.TopK(0.3)])
def test_a_deep_copy_goes_on_with_the_same_bits_and_fails_with_the_first(
    compressor: Any, seed: int
) -> None:
    start = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed))

    def work(here: Placement) -> bool:
        first = made(here, start, compressor=compressor)
        first.step(closure_of(first, here.first_agent, []))
        second = copy.deepcopy(first)
        for optimizer in (first, second):
            for _ in range(2):
                optimizer.step(closure_of(optimizer, here.first_agent, []))
        first.communicator.notes.end(RuntimeError("over"))
        with pytest.raises(fs.PeerError, match="over"):
            second.step(closure_of(second, here.first_agent, []))
        with pytest.raises(TypeError, match=r"save state_dict\(\) instead"):
            pickle.dumps(first)
        return torch.equal(first.rows.x, second.rows.x)

    assert in_threads(work) == [True, True]


def test_an_optimizer_that_is_dropped_frees_its_buffers_while_its_placement_lives() -> None:
    start = torch.zeros(3, 40)

    def work(here: Placement) -> Any:
        return here, weakref.ref(made(here, start).rows)

    found = in_threads(work)
    gc.collect()
    assert [rows() for _, rows in found] == [None, None]


def test_no_moving_parameter_and_loaded_states_send_nothing() -> None:
    start = torch.zeros(3, 40)

    def work(here: Placement) -> bool:
        optimizer = made(here, start, compressor=fs.compressors.TopK(0.3))
        optimizer.step(closure_of(optimizer, here.first_agent, []))
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.parameters[0].requires_grad_(False)
        optimizer.mark_loaded()
        optimizer.step()
        return True

    assert in_threads(work) == [True, True]


def test_rows_without_numbers_are_gathered(seed: int) -> None:
    def work(here: Placement) -> list[torch.Size]:
        everybody = made(here, torch.zeros(3, 4)).communicator.everybody
        shapes = [(here.agents, 0), (here.agents, 2, 0), (here.agents,), (here.agents, 2, 3)]
        return [everybody.rows(torch.zeros(shape)).shape for shape in shapes]

    for shapes in in_threads(work):
        assert shapes == [(3, 0), (3, 2, 0), (3,), (3, 2, 3)]
