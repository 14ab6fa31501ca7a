"""A whole training step captured once and replayed, so that its launches cost the host nothing any more."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import add, sub
from typing import Any, Protocol

import torch
from torch import Tensor

from fastsaddle.optimizer.commit import Commit
from fastsaddle.optimizer.ranges import ranged

# eager steps before the capture: they compile kernels, and fill what is made once and kept
WARM_UP = 3
Body = Callable[[], Tensor]


class CaptureError(ValueError):
    """A step does something that no CUDA graph can hold, such as waiting for the GPU."""


@dataclass(frozen=True)
class StepInputs:
    """All that the host finds out anew for each step.

    Attributes:
        draws: random numbers of the batch, on the device that trains; shapes and dtypes are those of every step.
        settings: for each parameter group, the hyperparameters that steps read as tensors; in a graph float32 ones.
        ways: whatever else steps go by, such as whether momentum is Nesterov's; a graph is of one of them.
    """

    draws: tuple[Tensor, ...]
    settings: tuple[Mapping[str, float | Tensor], ...]
    ways: Any = None


class Captured(Protocol):
    """Whose step is captured."""

    @property
    def counted(self) -> tuple[int, ...]:
        """Whole numbers on the host, which every step moves by as much."""
        ...

    @counted.setter
    def counted(self, numbers: tuple[int, ...]) -> None: ...

    @property
    def version(self) -> int:
        """Another number where the step's buffers have other addresses than before."""
        ...

    def advance(self, inputs: StepInputs) -> Tensor:
        """One step, that reads nothing that changes but `inputs` and what lies on the device. Returns its loss, 0-d."""
        ...


class Recorder(Protocol):
    """Runs a step aside, or records its operations."""

    def run(self, body: Body) -> Tensor:
        """What the body returns, run where it will be recorded."""
        ...

    def record(self, body: Body) -> tuple[Callable[[], None], Tensor]:
        """Note the body's operations without carrying them out: what replays them, and the body's (static) result."""
        ...


class StepGraph:
    """Takes steps: the first three eagerly, the others by replaying one that was recorded.

    Every step counts once, and has the bits of an eager one. The inputs are copied into buffers whose addresses stay;
    model, optimizer state and sums are changed where they lie, so that evaluation, checkpoints and restoring work
    between steps. The step is recorded anew, after three eager ones, where buffers were laid out anew (`version`),
    where steps go by other `ways`, and where a setting gets another shape. (The three, the side stream and the static
    inputs are PyTorch's rules: "CUDA semantics", section "CUDA Graphs".)

    Args:
        owner: whose step it is.
        recorder: `CudaRecorder`; tests have one for the CPU.
    """

    def __init__(self, owner: Captured, recorder: Recorder) -> None:
        self._owner, self._recorder = owner, recorder
        self._draws: tuple[Tensor, ...] = ()
        self._settings: tuple[dict[str, Tensor], ...] = ()
        # numbers that were written into settings, each with the setting's counter of writes afterwards
        self._told: tuple[dict[str, tuple[float, int]], ...] = ()
        self._recorded: Any = None
        self._forget()

    def _forget(self) -> None:
        self._eager = 0
        self._replay: Callable[[], None] | None = None
        self._loss: Tensor | None = None
        self._moved: tuple[int, ...] = ()
        self._settings = ()

    def step(self, inputs: StepInputs) -> Tensor:
        """One step. Returns its loss, 0-d, which later steps leave alone.

        Raises:
            CaptureError: it cannot be recorded; counters are as before.
        """
        wanted = self._owner.version, inputs.ways, [shapes(group) for group in inputs.settings]
        if wanted != self._recorded:
            self._forget()
            self._recorded = wanted
        self._take(inputs)
        if self._eager < WARM_UP:
            loss = self._recorder.run(self._body)
            self._eager += 1
            return loss
        # signals wait: a step that is counted is taken
        with Commit():
            if self._replay is None:
                self._replay = self._record()
            else:
                self._owner.counted = tuple(map(add, self._owner.counted, self._moved))
            with ranged("replay"):
                self._replay()
        assert self._loss is not None
        return self._loss.clone()

    def _take(self, inputs: StepInputs) -> None:
        """Copy what changes to where the graph reads it; numbers only where they differ from what is there."""
        device = inputs.draws[0].device
        if not self._draws:
            self._draws = tuple(map(torch.empty_like, inputs.draws))
        if not self._settings:
            self._settings = tuple(
                {
                    name: torch.zeros(shape, dtype=torch.float32, device=device)
                    for name, shape in shapes(group).items()
                }
                for group in inputs.settings
            )
            self._told = tuple({} for _ in inputs.settings)
        for held, draw in zip(self._draws, inputs.draws, strict=True):
            held.copy_(draw)
        for numbers, told, group in zip(self._settings, self._told, inputs.settings, strict=True):
            for name, value in group.items():
                number = numbers[name]
                if isinstance(value, Tensor):
                    # the last step left the graph's own in the parameter group
                    if value is not number:
                        number.copy_(value)
                elif told.get(name) != (value, number._version):
                    number.fill_(value)
                    told[name] = value, number._version

    def _body(self) -> Tensor:
        return self._owner.advance(StepInputs(self._draws, self._settings))

    def _record(self) -> Callable[[], None]:
        before = self._owner.counted
        try:
            replay, self._loss = self._recorder.record(self._body)
        except BaseException as error:
            self._owner.counted = before
            if not isinstance(error, Exception):
                raise
            raise CaptureError(
                "this step cannot be captured in a CUDA graph, train with --cuda-graph off: "
                f"{type(error).__name__}: {error}"
            ) from error
        # the recorded step was counted while it was recorded
        self._moved = tuple(map(sub, self._owner.counted, before))
        return replay


def shapes(settings: Mapping[str, float | Tensor]) -> dict[str, tuple[int, ...]]:
    """What a graph's tensors of these settings are shaped like."""
    return {n: tuple(v.shape) if isinstance(v, Tensor) else () for n, v in settings.items()}


class CudaRecorder:
    """Records in CUDA graphs, on a stream of its own of `device`; each graph has its own memory pool."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def run(self, body: Body) -> Tensor:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            found = body()
        current.wait_stream(self.stream)
        return found

    def record(self, body: Body) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # other threads may go on working: this one's capture is no business of theirs
        recording = torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local")
        current = torch.cuda.current_stream(self.device)
        # torch's context leaves its stream current where the capture failed
        with torch.cuda.device(self.device), torch.cuda.stream(current), recording:
            found = body()
        return graph.replay, found
