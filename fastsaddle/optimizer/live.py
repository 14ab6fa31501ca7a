"""What an optimizer's steps change: buffers, counters and the phase, in one object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Parameter

from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.flat_parameters import FlatParameters
from fastsaddle.optimizer.heard import Heard
from fastsaddle.optimizer.hyperparameters import Scalars
from fastsaddle.optimizer.phase import Phase
from fastsaddle.optimizer.ranges import Stages

if TYPE_CHECKING:
    from fastsaddle.rules.any_torch import LocalOptimizers


class Counter:
    """Steps done, in an object that outlives the buffers: who is asked after an optimizer's end keeps this alone.

    Attributes:
        rounds: int64, 0-d.
    """

    def __init__(self) -> None:
        self.rounds = torch.zeros((), dtype=torch.int64, device="cpu")


class Live:
    """Everything that steps change but parameters and their groups.

    Wrappers of training loops copy an optimizer's `__dict__`. An attribute that a step binds anew would then differ
    between the copies; they share this object instead.

    Attributes:
        rows: the flat buffers; version: of their layout, when state was last laid out like them.
        flat_state: buffers by name; scalar_state: numbers `[groups, agents]` by name.
        heard: states of agents elsewhere.
        layouts: where each group's tensors lie in its columns; dim: numbers of one agent that steps move;
            count: parameters that they are in;
            held: each of these with the name and the value of each of its states.
        counter: what holds `rounds`, int64, 0-d: steps done.
        squares: `[groups, rows sent, agents, 2]` float64, see `Optimizer.squares`.
        skipped: `[agents]` int32: gradients that were not finite.
        scalars: hyperparameters as tensors.
        locals: the agents' own optimizers; held_locals: their states, until they are made.
        bytes_sent: by the agents here, so far; bytes_unlike: and further ones, of steps that send unlike, int64 0-d on
            the device; None where there were none.
        made: buffers that are not kept between steps, and what is made once for these buffers.
        phase: where a step in progress stands.
        loading: of parameters whose state is being loaded, the values that torch would cast.
        zeroed, zero_at: how often gradients were zeroed, and where they were and what was written into them at last.
        renews: whether closures are known to zero gradients themselves, in a way that is noticed.
        scaler: what a `torch.amp.GradScaler` tells of the step that it drives.
        compared: of each parameter of each group, whether it moves, when all ranks compared them at last; is_loaded:
            whether a state was loaded since.
        trains: whether parameters stand at the perturbed models between steps, see `Optimizer.train`.
        stages: the ranges of the step in progress; None where nobody profiles it.
    """

    def __init__(self) -> None:
        self.rows: FlatParameters | None = None
        self.version = 0
        self.flat_state: dict[str, torch.Tensor] = {}
        self.scalar_state: dict[str, torch.Tensor] = {}
        self.heard = Heard()
        self.layouts: list[FlatLayout] = []
        self.counter = Counter()
        self.squares = torch.zeros(0, dtype=torch.float64, device="cpu")
        self.skipped = torch.zeros(0, dtype=torch.int32, device="cpu")
        self.scalars: Scalars | None = None
        self.bytes_sent = 0
        self.bytes_unlike: torch.Tensor | None = None
        self.dim = 0
        self.count = 0
        self.held: list[tuple[Parameter, str, Any]] = []
        self.locals: LocalOptimizers | None = None
        self.held_locals: list[dict[str, Any]] | None = None
        self.made: dict[str, Any] = {}
        self.phase = Phase()
        self.loading: dict[Parameter, dict[str, torch.Tensor]] = {}
        self.zeroed = 0
        self.zero_at: tuple[tuple[int, int], ...] | None = None
        self.renews = False
        self.scaler: dict[str, Any] = {}
        self.trains = False
        self.compared: tuple[tuple[bool, ...], ...] = ()
        self.is_loaded = False
        self.stages: Stages | None = None

    @property
    def rounds(self) -> torch.Tensor:
        return self.counter.rounds

    @rounds.setter
    def rounds(self, rounds: torch.Tensor) -> None:
        self.counter.rounds = rounds
