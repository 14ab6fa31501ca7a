"""The options of a training run: one frozen dataclass behind the command line and config.json.

The command line reads it with tyro, chosen because the dataclass is the whole schema: names, types,
defaults and the texts below each field; a second list of options (as typer wants) could disagree.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

WITH_MOMENTUM = ("qsaddle", "qgm", "dsgdm")
SHARPNESS_AWARE = ("qsaddle", "dsaddle")
FROM_A_FOLDER = ("fashion-mnist", "cifar10")


@dataclass(frozen=True)
class TrainConfig:
    """Train many agents on one machine, each on its own data and talking to its neighbors only.

    Without options: Q-SADDLe, 16 agents on a ring, scikit-learn's digits split by Dirichlet(0.1).
    Ctrl-C leaves a checkpoint, and `fastsaddle train --resume DIR` goes on bit for bit.
    """

    algorithm: Literal["qsaddle", "qgm", "dsaddle", "dsgdm", "dsgd"] = "qsaddle"
    """qsaddle: sharpness-aware quasi-global momentum; qgm: quasi-global momentum; dsaddle:
    sharpness-aware gossip; dsgdm: gossip with local momentum; dsgd: plain gossip."""

    dataset: Literal["digits", "fashion-mnist", "cifar10"] = "digits"
    """digits comes with scikit-learn; the others are read from --data-dir."""

    data_dir: Path | None = None
    """Folder of Fashion-MNIST's four idx.gz or CIFAR-10's six .bin files; digits needs none."""

    model: Literal["mlp", "lenet5", "cnn5"] = "mlp"
    """mlp: one hidden layer of 50; lenet5: images of 12x12 or more; cnn5: 5 layers with EvoNorm."""

    agents: int = 16
    """Number of agents."""

    topology: str = "ring"
    """Who talks to whom: ring, torus:4x4, fully_connected, exponential, star, dyck, social_network,
    random_regular:3 or erdos_renyi:0.3 (both with a seed: random_regular:3:7)."""

    partition: Literal["dirichlet", "dirichlet-raw"] = "dirichlet"
    """dirichlet: drawn, then cut again into parts of equal size; dirichlet-raw: parts as drawn."""

    alpha: float = 0.1
    """Dirichlet concentration: small gives an agent few classes, 100 nearly equal shares of all."""

    steps: int = 600
    """Local steps of each agent; one gossip round follows each."""

    batch_size: int = 32
    """Samples of each agent in a step."""

    lr: float = 0.1
    """Learning rate, constant."""

    rho: float = 0.05
    """Length of the sharpness-aware ascent step (qsaddle, dsaddle)."""

    momentum: float = 0.9
    """Momentum coefficient, of the quasi-global buffer too (qsaddle, qgm, dsgdm)."""

    weight_decay: float = 0.0
    """L2 coefficient, added to the gradient."""

    nesterov: bool = False
    """Nesterov's form of the momentum (qsaddle, qgm, dsgdm)."""

    seed: int = 0
    """Seed of the split, of the initial model and of the batches."""

    device: str = "auto"
    """auto (cuda where there is one, else cpu), cpu, cuda or cuda:1."""

    engine: Literal["auto", "vmap", "loop"] = "auto"
    """How the agents' gradients are computed: all at once or one by one; auto takes the faster."""

    chunk: int | None = None
    """Agents computed at once under vmap, fewer to save memory. None: all of them."""

    threads: int | None = None
    """CPU threads. None: one where a step is too small to be shared, else as many as torch takes."""

    eval_every: int | None = None
    """Steps between evaluations. None: 20 evaluations a run."""

    checkpoint_every: int | None = None
    """Steps between checkpoints. None: one after each evaluation."""

    out: Path | None = None
    """The run's own directory, new or empty. None: runs/<a unique name>."""

    resume: Path | None = None
    """Directory of a run to go on with; it takes no other option: config.json has them."""

    def check(self) -> None:
        """Raise ValueError for a value that no run can have."""
        counts = (
            "agents",
            "steps",
            "batch_size",
            "chunk",
            "threads",
            "eval_every",
            "checkpoint_every",
        )
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{_option(name)} must be >= 1, got {value}")
        for name in ("alpha", "lr"):
            _finite(self, name, getattr(self, name) > 0, "> 0")
        for name in ("rho", "weight_decay", "seed"):
            _finite(self, name, getattr(self, name) >= 0, ">= 0")
        _finite(self, "momentum", 0 <= self.momentum < 1, "in [0, 1)")
        if self.nesterov and self.algorithm not in WITH_MOMENTUM:
            raise ValueError(
                f"--nesterov needs an algorithm with momentum ({', '.join(WITH_MOMENTUM)}), "
                f"got {self.algorithm}"
            )
        if self.dataset in FROM_A_FOLDER and self.data_dir is None and self.resume is None:
            raise ValueError(f"--dataset {self.dataset} needs --data-dir, the folder of its files")

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations, with the default filled in."""
        return self.eval_every or max(1, self.steps // 20)

    @property
    def checkpoint_interval(self) -> int:
        """Steps between checkpoints, with the default filled in."""
        return self.checkpoint_every or self.evaluation_interval


def _option(name: str) -> str:
    return name.replace("_", "-")


def _finite(config: TrainConfig, name: str, holds: bool, rule: str) -> None:
    value = getattr(config, name)
    if not (holds and math.isfinite(value)):
        raise ValueError(f"--{_option(name)} must be finite and {rule}, got {value}")
