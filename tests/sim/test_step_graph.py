"""Steps in a graph, by a recorder that replays operators on the CPU: their bits, and what cannot be captured."""

import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.engines._perceptron import Perceptron
from fastsaddle.sim.run.simulation import Simulation
from fastsaddle.sim.run.step_graph import CaptureError, CudaRecorder, StepGraph, StepInputs
from tests.sim.step_cases import METHODS, STEPS, assert_same, options_of, take
from tests.sim.step_recorder import CpuRecorder

pytestmark = pytest.mark.usefixtures("one_thread")
REFUSED = {
    "qsaddle, looksam:2": ({"sam": "looksam:2"}, "LookSAM counts on the host"),
    "dsgd, matchings": ({"topology": "matchings"}, "matchings:0 draws each round's graph"),
    "gut": ({}, "GUT keeps the learning rate"),
    "local-sgd": ({"period": "3"}, "Average counts on the host when"),
    "dppf": ({"period": "qsr:2:0.1", "push_schedule": "rising"}, "Average counts on the host when"),
    "easgd": ({"period": "2"}, "Elastic counts on the host when"),
}


@pytest.fixture
def options(tmp_path: Path, seed: int) -> dict[str, Any]:
    return options_of(tmp_path, seed, "cpu")


@pytest.fixture(autouse=True)
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU would read rates that are tensors to check them, which a GPU does not."""
    monkeypatch.setattr("fastsaddle.optimizer.hyperparameters.is_read", lambda value: False)


def simulation(name: str, options: dict[str, Any], **more: Any) -> Simulation:
    own = METHODS[name] if name in METHODS else REFUSED[name][0]
    made = Simulation(TrainConfig(**{**options, "algorithm": name.split(",")[0], **own, **more}))
    # a CPU would read the norms of every step to raise at once, which a GPU does not
    made.optimizer.nonfinite = "skip"
    return made


def graphed(name: str, options: dict[str, Any], **more: Any) -> tuple[Simulation, CpuRecorder]:
    made, recorder = simulation(name, options, **more), CpuRecorder()
    made.graph = StepGraph(made, recorder)
    return made, recorder


@pytest.mark.parametrize("engine", ["vmap", "loop", "batched"])
@pytest.mark.parametrize("name", METHODS)
def test_replayed_steps_have_the_bits_of_eager_ones(
    name: str, engine: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "contrastive" in name and engine == "loop":
        pytest.skip("the loop reads on the host whose features are asked for")
    for module in (
        "compressors.stochastic_quantizer",
        "compressors.top_k",
        "compressors.sign",
        "comm.choco",
    ):
        # on a CPU they read what they refuse, on a GPU they do not
        monkeypatch.setattr(f"fastsaddle.{module}.refuse_nonfinite", lambda *_: None)
    may_overflow = "fastsaddle.compressors.stochastic_quantizer._may_overflow"
    monkeypatch.setattr(may_overflow, lambda x, residual, elements: False)
    if "contrastive" in name:
        # of a CPU's labels torch reads the largest; a GPU's it lets be
        monkeypatch.setattr("fastsaddle.sim.run.cross_features.F.one_hot", one_hot)
    # a GPU is not asked whether labels leave a sample out
    monkeypatch.setattr("fastsaddle.sim.engines._cross_entropy.has_ignored", lambda _: False)
    # the one call that takes perceptrons is for CPUs
    monkeypatch.setattr(Perceptron, "takes", lambda *_: False)
    more = {"engine": engine, **({"model": "mlp:7"} if engine == "batched" else {})}
    eager = simulation(name, options, **more)
    replayed, recorder = graphed(name, options, **more)
    begin = eager.stack.x.clone()
    losses = take(eager, 0, STEPS), take(replayed, 0, STEPS)
    assert recorder.recordings == 1 and recorder.operators > 20
    assert [loss.item() for loss in losses[0]] == [loss.item() for loss in losses[1]]
    assert len({loss.item() for loss in losses[0]}) == STEPS
    assert not torch.equal(begin, eager.stack.x)
    assert_same(eager, replayed)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return (labels[..., None] == torch.arange(classes, device=labels.device)).long()


def test_a_deep_network(options: dict[str, Any]) -> None:
    more = {"model": "resnet20:qgm", "agents": 3, "batch_size": 2, "engine": "loop"}
    eager, (replayed, _) = (
        simulation("qsaddle", options, **more),
        graphed("qsaddle", options, **more),
    )
    for made in (eager, replayed):
        take(made, 0, 5)
    assert_same(eager, replayed)


@pytest.mark.parametrize("name", ["qsaddle, 8 bits", "nsaddle", "relay-sgd"])
def test_evaluation_checkpoints_and_restoring_between_replays(
    name: str, options: dict[str, Any]
) -> None:
    eager, (replayed, recorder) = simulation(name, options), graphed(name, options)
    for made in (eager, replayed):
        take(made, 0, 4)
    assert eager.evaluate() == replayed.evaluate()
    for made in (eager, replayed):
        made.loss_sum.zero_()
        made.norm_sums.zero_()
    saved = {name: t.clone() for name, t in replayed.tensors().items()}
    counters = replayed.counters()
    for made in (eager, replayed):
        take(made, 4, STEPS)
    assert_same(eager, replayed)
    replayed.restore(saved, counters)
    if not eager.optimizer.counts_rounds:
        replayed.optimizer.rounds.fill_(4)
    take(replayed, 4, STEPS)
    assert_same(eager, replayed)
    assert recorder.recordings == 1
    other, recorder = graphed(name, options)
    other.restore(saved, counters)
    other.optimizer.rounds.fill_(4)
    take(other, 4, STEPS)
    assert_same(eager, other)
    assert recorder.recordings == 1


def test_buffers_laid_out_anew_are_captured_anew(options: dict[str, Any]) -> None:
    eager, (replayed, recorder) = simulation("qgm", options), graphed("qgm", options)
    for made in (eager, replayed):
        take(made, 0, 5)
        parameter = next(iter(made.stack.parameters()))
        before = made.version
        parameter.data = parameter.data.clone()
        assert made.version == before + 1
        take(made, 5, STEPS + 1)
    assert recorder.recordings == 2
    assert_same(eager, replayed)


# between two steps: what is done to a parameter group, and how often steps are recorded then
CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], None], int]] = {
    "weight decay": ("qgm", lambda group: group.update(weight_decay=0.3), 1),
    "momentum": ("qgm", lambda group: group.update(momentum=0.2), 1),
    "rho": ("qsaddle", lambda group: group.update(rho=1.5), 1),
    "rho, a tensor": ("qsaddle", lambda group: group.update(rho=torch.tensor(1.5)), 1),
    "rho, by agent": ("qsaddle", lambda group: group.update(rho=torch.linspace(0, 2, 5)), 2),
    "rho, from what is there": (
        "qsaddle",
        lambda group: group.update(rho=torch.as_tensor(group["rho"]) + 1.0),
        1,
    ),
    "nesterov": ("qgm", lambda group: group.update(nesterov=not group["nesterov"]), 2),
    "maximize": ("dsaddle", lambda group: group.update(maximize=True), 2),
    "qg_momentum": ("qsaddle", lambda group: group.update(qg_momentum=0.1), 2),
    "betas": ("qg-adam", lambda group: group.update(betas=(0.5, 0.9)), 2),
    "two at once": ("d2", lambda group: group.update(weight_decay=0.1, momentum=0.3), 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_hyperparameters_that_change_between_replays(change: str, options: dict[str, Any]) -> None:
    name, edit, recordings = CHANGES[change]
    eager, (replayed, recorder) = simulation(name, options), graphed(name, options)
    untouched = simulation(name, options)
    for made in (eager, replayed, untouched):
        take(made, 0, 5)
        if made is not untouched:
            for group in made.optimizer.param_groups:
                edit(group)
        take(made, 5, 2 * STEPS)
    assert recorder.recordings == recordings
    assert_same(eager, replayed)
    assert not torch.equal(eager.stack.x, untouched.stack.x)


def test_a_loaded_state_between_replays(options: dict[str, Any]) -> None:
    eager, (replayed, _) = simulation("qsaddle", options), graphed("qsaddle", options)
    for made in (eager, replayed):
        take(made, 0, 5)
        state = made.optimizer.state_dict()
        for group in state["param_groups"]:
            group.update(rho=0.9, momentum=0.4)
        for of in state["state"].values():
            of["quasi_global"] = 0.5 * of["quasi_global"] + 0.01
        made.optimizer.load_state_dict(state)
        take(made, 5, 2 * STEPS)
    assert_same(eager, replayed)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), None, True])
def test_bad_numbers_between_replays_are_refused(bad: Any, options: dict[str, Any]) -> None:
    replayed, _ = graphed("qsaddle", options)
    take(replayed, 0, 5)
    before, counters = replayed.stack.x.clone(), replayed.counters()
    replayed.optimizer.param_groups[0]["rho"] = bad
    with pytest.raises(ValueError, match="rho must be >= 0 and finite, got"):
        replayed.step(5)
    assert torch.equal(replayed.stack.x, before) and replayed.counters() == counters
    replayed.optimizer.param_groups[0]["rho"] = 0.1
    replayed.step(5)
    assert not torch.equal(replayed.stack.x, before)


@pytest.mark.parametrize("name", REFUSED)
def test_methods_that_decide_on_the_host(name: str, options: dict[str, Any]) -> None:
    """They say so, and in a graph they would fail or go wrong."""
    eager, (replayed, _) = simulation(name, options), graphed(name, options)
    assert (eager.optimizer.decides_on_host or "").startswith(REFUSED[name][1])
    take(eager, 0, STEPS)
    try:
        take(replayed, 0, STEPS)
    except CaptureError as error:
        assert "waits for the device" in str(error) or "numbers of the host" in str(error)
    else:
        assert not torch.equal(eager.stack.x, replayed.stack.x)


def test_methods_that_do_not(options: dict[str, Any]) -> None:
    assert {simulation(name, options).optimizer.decides_on_host for name in METHODS} == {None}


class Counter:
    """The smallest thing with steps: x += rate * (the batch's sum), and whatever `mistake` does."""

    def __init__(self, mistake: Callable[[Tensor, float | Tensor], Any] | None = None) -> None:
        self.counted, self.version = (0, 0), 1
        self.x = torch.zeros(3, dtype=torch.float64)
        self.mistake = mistake

    def advance(self, inputs: StepInputs) -> Tensor:
        self.counted = self.counted[0] + 5, self.counted[1] + 2
        rate = inputs.settings[0]["lr"]
        if self.mistake is not None:
            self.mistake(inputs.draws[0], rate)
        self.x += inputs.draws[0].double() * rate
        return self.x.sum()


def inputs(step: int) -> StepInputs:
    return StepInputs((torch.arange(3) + step,), ({"lr": 0.1 * (step // 2)},))


def test_losses_that_were_handed_out_stay_and_every_step_counts_once() -> None:
    owner = Counter()
    graph = StepGraph(owner, CpuRecorder())
    losses, expected, x = [], [], np.zeros(3)
    for step in range(7):
        losses.append(graph.step(inputs(step)))
        x += (np.arange(3) + step) * np.float64(np.float32(0.1 * (step // 2)))
        expected.append(x.sum())
        assert owner.counted == (5 * step + 5, 2 * step + 2)
    assert [loss.item() for loss in losses] == expected


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (lambda batch, rate: batch.sum().item(), "waits for the device"),
        (lambda batch, rate: float(rate), "waits for the device"),
        (lambda batch, rate: bool(batch.any()), "waits for the device"),
        (lambda batch, rate: batch.tolist(), "tolist waits for the device"),
        (lambda batch, rate: batch[batch > 1], "shape of its own"),
        (lambda batch, rate: batch.nonzero(), "shape of its own"),
        (lambda batch, rate: torch.rand(2), "draws at random"),
        (lambda batch, rate: torch.tensor([1.0]), "numbers of the host"),
        (lambda batch, rate: torch.from_numpy(np.ones(2)), "numbers of the host"),
    ],
)
def test_what_no_graph_can_hold(mistake: Callable[[Tensor, Any], Any], told: str) -> None:
    owner = Counter(mistake)
    graph = StepGraph(owner, CpuRecorder())
    for step in range(3):
        graph.step(inputs(step))
    before = owner.x.clone()
    with pytest.raises(CaptureError, match=f"train with --cuda-graph off: RefusedError: .*{told}"):
        graph.step(inputs(3))
    assert owner.counted == (15, 6) and torch.equal(owner.x, before)


@pytest.mark.parametrize("when", ["recording", "replay"])
def test_an_interrupted_step_is_taken_and_counted_or_neither(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, eager, recorder = Counter(), Counter(), CpuRecorder()
    graph = StepGraph(owner, recorder)
    for step in range(3):
        graph.step(inputs(step))
    if when == "recording":

        def stopped(body: Callable[[], Tensor]) -> Any:
            body()
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(recorder, "record", stopped)
            before = owner.x.clone()
            graph.step(inputs(3))
        # what was recorded did not run on a device
        owner.x.copy_(before)
    else:
        graph.step(inputs(3))
        replay = graph._replay

        def signalled() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            replay()

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(graph, "_replay", signalled)
            graph.step(inputs(4))
    steps = {"recording": 3, "replay": 5}[when]
    assert owner.counted == (5 * steps, 2 * steps)
    graph.step(inputs(steps))
    for step in range(steps + 1):
        whole = StepInputs(
            inputs(step).draws, tuple({"lr": torch.tensor(g["lr"])} for g in inputs(step).settings)
        )
        eager.advance(whole)
    assert owner.counted == eager.counted and torch.equal(owner.x, eager.x)


def test_memory_that_nobody_keeps() -> None:
    """The recorder tells a step that reads a tensor which the host replaces."""
    held = [torch.ones(3)]
    owner = Counter(lambda batch, rate: owner.x.add_(held[0]))
    graph = StepGraph(owner, CpuRecorder())
    for step in range(5):
        graph.step(inputs(step))
    held[0] = torch.ones(3)
    with pytest.raises(RuntimeError, match="memory that nobody keeps"):
        graph.step(inputs(5))


def test_a_value_read_on_the_host_before_goes_wrong() -> None:
    """The recorder does not hide a number that was baked in."""
    eager, baked = Counter(), Counter()
    now = [0.0]
    baked.mistake = lambda batch, rate: baked.x.add_(now[0])
    graph = StepGraph(baked, CpuRecorder())
    for step in range(6):
        now[0] = float(step)
        eager.advance(inputs(step))
        eager.x += step
        graph.step(inputs(step))
    assert not torch.equal(eager.x, baked.x)


def test_draws_are_those_that_batch_gathers(options: dict[str, Any]) -> None:
    made = simulation("dsgd", options)
    for step in (0, 3, 2):
        found = made.data.gather(made.data.draws(step))
        assert all(map(torch.equal, found, made.data.batch(step)))
    plain = Simulation(replace(TrainConfig(**options), augment="none"))
    assert len(plain.data.draws(1)) == 1 and len(made.data.draws(1)) == 3


def test_the_current_stream_comes_back_where_a_capture_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    current = ["default"]

    class Streamed:
        """As torch's: current while it is entered."""

        def __init__(self, stream: str) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            self.before, current[0] = current[0], self.stream

        def __exit__(self, *error: object) -> None:
            current[0] = self.before

    class Failing(Streamed):
        """As torch's capture: `capture_end` raises before the stream is given back."""

        def __init__(self, graph: object, stream: str, capture_error_mode: str) -> None:
            super().__init__(stream)

        def __exit__(self, *error: object) -> None:
            raise RuntimeError("capture_end")

    fakes = {"Stream": lambda device: "side", "CUDAGraph": object, "graph": Failing}
    fakes |= {"stream": Streamed, "current_stream": lambda device: current[0]}
    for name, fake in {**fakes, "device": lambda device: nullcontext()}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    with pytest.raises(RuntimeError, match="capture_end"):
        CudaRecorder(torch.device("cpu")).record(lambda: torch.zeros(()))
    assert current == ["default"]
