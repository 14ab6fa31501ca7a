"""The options of a training run: one frozen dataclass behind the command line and config.json.

The command line reads it with tyro, chosen because the dataclass is the whole schema: names, types,
defaults and the texts below each field; a second list of options (as typer wants) could disagree.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from fastsaddle.comm.choco import Choco
from fastsaddle.graphs import topology
from fastsaddle.sim import choices, methods, uses
from fastsaddle.sim.choices import option
from fastsaddle.sim.engines import _choice
from fastsaddle.sim.engines._precision import Precision
from fastsaddle.sim.help import with_help
from fastsaddle.sim.run import faults, messages, schedule
from fastsaddle.sim.trackers import _choice as trackers


@with_help
@dataclass(frozen=True)
class TrainConfig:
    """Train many agents on one machine, each on its own data and talking to its neighbors only.

    Without options: Q-SADDLe, 16 agents on a ring, scikit-learn's digits split by Dirichlet(0.1). Ctrl-C leaves a
    checkpoint, and `fastsaddle train --resume DIR` goes on bit for bit. Algorithm, gradient, dataset, model, topology,
    partition, feature skew, compressor, engine and tracker can be your own: file.py:Name.
    """

    algorithm: str = "qsaddle"
    """The method. Plain gossip: dsgd, dsgdm (local momentum), qgm (quasi-global momentum), qg-adam. Sharpness-aware:
    dsaddle, qsaddle. Cross-gradients: ngm, nsaddle. Corrected for skewed data: gradient-tracking, momentum-tracking,
    d2, gut; relay-sgd on a tree; push-pull on graphs that point one way. Local steps and averages of all: local-sgd,
    easgd, dppf."""

    gradient: str = "auto"
    """auto (the algorithm's own), plain, or sam: sharpness-aware, for any algorithm."""

    option: str = ""
    """What an algorithm of your own takes: name=value, with commas between several, such as momentum=0.8."""

    dataset: str = "digits"
    """digits, mnist, fashion-mnist, cifar10, cifar100, imagenette or npz.

    The digits come with scikit-learn, all others are read from --data-dir. imagenette:160 has images of 160x160; npz
    is a file with arrays x, y or x_train, y_train, x_test, y_test."""

    data_dir: Path | None = None
    """Folder of the dataset's files, or the .npz file."""

    download: bool = False
    """Fetch what is missing in --data-dir, with torchvision."""

    evaluate_on: Literal["test", "validation"] = "test"
    """Evaluate on the test set, or on a tenth of the training set that is kept for it, for tuning."""

    model: str = "mlp"
    """mlp, lenet5, cnn5, resnet20, vgg11, mobilenet-v2, resnet18, transformer.

    mlp:32 has a hidden layer of 32 instead of 50. resnet20 is normalized by EvoNorm; there are resnet20:qgm and
    resnet20:groupnorm, too."""

    agents: int = 16
    """Number of agents."""

    topology: str = "ring"
    """Who talks to whom: ring, torus:4x4, one-peer-exponential, edges.txt, ...

    Graphs that stay: ring, torus:4x4, fully-connected, exponential, star, chain, binary-tree, dyck, social-network,
    directed-ring, directed-exponential, random-regular:3, erdos-renyi:0.3 (these two with a seed: random-regular:3:7).
    Another graph for each gossip: one-peer-exponential, one-peer-exponential:undirected, base-graph:2 (neighbors a
    round), matchings, equi-dyn, equi-dyn:undirected (these with a seed: matchings:7), matcha:0.5 (half of a ring;
    matcha:0.5:7:torus has a seed and a graph). Your own: edges.txt (a line an edge, which goes both ways: two
    agents from 0 on, perhaps a weight), matrix.npy, file.py:name."""

    faults: str = "none"
    """Links and agents that fail in each round by chance: links:0.1,agents:0.01.

    slow:3x4 lets agent 3 take part in every 4th round alone; seed:7 draws otherwise than by --seed. log:FILE, the
    faults.jsonl of a run, lets the same fail again."""

    partition: str = "dirichlet"
    """The split: dirichlet, dirichlet-raw, iid, sorted, shards:2, classes:2, quantity.

    dirichlet is drawn, then cut again into parts of equal size; dirichlet-raw has the parts as drawn. sorted: by class,
    in equal blocks. shards:2 and classes:2: two for each agent. quantity: unequal sizes."""

    alpha: float = 0.1
    """Dirichlet concentration: small gives agents few classes, 100 all alike."""

    feature_skew: str | None = None
    """Make agents' images unlike: rotation:180 (degrees), color:0.3 or noise:0.5."""

    augment: Literal["none", "crop", "flip", "crop-flip"] = "none"
    """Random crops of images padded by 4, random mirror images, or both."""

    steps: int = 600
    """Local steps of each agent."""

    epochs: float | None = None
    """Passes over the training set, in place of --steps."""

    batch_size: int = 32
    """Samples of each agent in a step."""

    lr: float = 0.1
    """Learning rate."""

    schedule: str = "constant"
    """Of the learning rate: constant, cosine, step (decays at 50% and 75%), step:0.3:0.6."""

    lr_decay: float = 0.1
    """Factor of each decay of --schedule step."""

    warmup: float = 0.0
    """Share of the run during which the learning rate grows linearly to its value."""

    rho: float = 0.05
    """Perturbation radius: the length of the sharpness-aware ascent step."""

    adaptive: bool = False
    """Scale the ascent step by each weight's size (ASAM)."""

    sam: str = "full"
    """How the sharpness-aware gradient is found: full (two passes), looksam:5:0.7, momentum, esam:0.6:0.5.

    looksam: every 5th step in full. momentum: along the momentum buffer, one pass. esam: by parts of the weights and
    of the samples."""

    perturb: Literal["all", "self"] = "all"
    """Whether cross-gradients are sharpness-aware too, or the own gradient alone."""

    cross_gradients: Literal["data", "model"] = "data"
    """Gradients that neighbors take at one's own model (data), or that one takes at theirs (model)."""

    mixed_self_gradient: bool = False
    """Take the own gradient at the mixed model, as the published code does."""

    momentum: float | None = None
    """Momentum. None: the algorithm's default, 0.9 or none."""

    qg_momentum: float | None = None
    """Coefficient of the quasi-global buffer. None: the algorithm's default.

    That is --momentum, or with cross-gradients no quasi-global buffer, but local momentum."""

    quasi_global: Literal["second", "both"] = "second"
    """Which moments of Adam are quasi-global."""

    tracking: float = 0.9
    """How strongly the tracked update is followed; with momentum about 0.01."""

    period: str = "4"
    """Steps between averages, or qsr:4:0.0175: the quadratic synchronization rule."""

    pull: float = 0.1
    """Pull towards the average, in [0, 1]."""

    push: float = 0.5
    """Push away from the average; agents settle push / pull away from it."""

    pull_schedule: Literal["constant", "rising", "falling"] = "constant"
    """Keep --pull, or move it linearly from or to zero over the run."""

    push_schedule: Literal["constant", "rising", "falling"] = "constant"
    """Keep --push, or move it linearly from or to zero over the run."""

    weight_decay: float = 0.0
    """L2 coefficient, added to the gradient."""

    norm_decay: bool = False
    """Let --weight-decay act on the parameters of normalization layers too."""

    nesterov: bool = False
    """Nesterov's form of the momentum."""

    ccl_model: float = 0.0
    """Weight of the cross-feature contrastive loss on the features that neighbors' models find in one's samples.

    It is 0.1 in the authors' code. It needs models that are sent whole."""

    ccl_data: float = 0.0
    """The same on each class's mean features in one's own and the neighbors' samples."""

    gossip_every: int = 1
    """Steps from one gossip to the next; agents take local steps alone in between."""

    consensus_step: float = 1.0
    """How far each gossip goes towards the neighbors' average, in (0, 1]."""

    push_sum: bool = False
    """Push-sum on graphs that point one way: mix sums and weights by a matrix.npy whose columns sum to one.

    With quasi-global momentum it is an experiment."""

    compressor: str = "none"
    """Of messages: stochastic-quantizer:8, top-k:0.1, random-k:0.1, sign, identity.

    By CHOCO gossip. Of top-k and random-k the number is the share that is sent; 2 bits are
    stochastic-quantizer:2:biased=true. Top-k, 2 bits and signs need a --consensus-step of 0.1 to 0.4. Signs
    diverge with a quasi-global momentum of 0.9, with 0.5 they do not."""

    gossip_order: Literal["compress-then-mix", "mix-then-compress"] = "compress-then-mix"
    """Whether compressed messages are mixed in the round that they are sent in, or in the next."""

    running_sum: bool = False
    """Keep a running weighted sum of what neighbors sent instead of mixing their public copies."""

    adaptive_gossip: bool = False
    """AdaGossip: adapt --consensus-step to each element."""

    state_dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 halves the memory of momentum and of public copies, rounded without bias.

    Of compressors it takes stochastic-quantizer."""

    init: Literal["same", "independent"] = "same"
    """Whether all agents start from one model or each from its own."""

    seed: int = 0
    """Seed of the split, of the initial model and of the batches."""

    split_seed: int | None = None
    """Seed of the split alone. None: --seed."""

    device: str = "auto"
    """auto (cuda where there is one, else cpu), cpu, cuda or cuda:1."""

    engine: str = _choice.AUTO
    """How all agents' gradients are computed; auto takes the fastest that was measured and can.

    vmap: mapped, all at once. unfold: the same, convolutions as products over patches. implicit: by Triton kernels that
    lay no patches out, on GPUs, not measured yet. loop: one by one. threads: one on each CPU thread. batched: products,
    where the network is a chain of linear layers. lanes: CPU kernels for chains of convolutions and linear layers."""

    precision: Precision = "float32"
    """Arithmetic of the gradients: tf32 on GPUs that have it, bfloat16 by autocast; parameters stay float32."""

    chunk: int | None = None
    """Agents computed at once, fewer to save memory. None: 64 on a CPU, all elsewhere."""

    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """Capture a whole step in a CUDA graph and replay it, with the same bits.

    auto: on a GPU, where each step of the method is alike and no code of your own takes part."""

    threads: int | None = None
    """CPU threads. None: as many as are free and of use.

    That is one where a step is too small to be shared or other processes keep the processors busy, else as many as
    torch takes."""

    eval_every: int | None = None
    """Steps between evaluations. None: 20 evaluations a run."""

    checkpoint_every: int | None = None
    """Steps between checkpoints. None: one after each evaluation."""

    track: str = "none"
    """Who else writes the run down: tensorboard, wandb (offline), or your own; several with commas between them.

    wandb:PROJECT names a project. Both write into the run's directory, and are packages of their own. Your own is a
    fs.sim.Tracker as file.py:Name, or by its name where a package offers it."""

    tensorboard: bool = False
    """The same as --track tensorboard."""

    out: Path | None = None
    """The run's own directory, new or empty. None: runs/<a unique name>."""

    resume: Path | None = None
    """Directory of a run to go on with; config.json has its options.

    --steps or --epochs make it longer, which its schedule follows; no other option but --minutes is taken."""

    minutes: float | None = None
    """Stop with a checkpoint after so long, to go on later with --resume."""

    placement: str | None = None
    """Agents of each process, as 3,1,2,2. None: as evenly as can be. Bits do not depend on it."""

    ranks: Literal["auto", "off"] = "auto"
    """auto: the processes that torchrun has started train one run together; off: each has a run of its own."""

    timeout: float = 120.0
    """Seconds that a message may take before its sender counts as failed."""

    overlap: Literal["off", "auto"] = "off"
    """auto sends what does not depend on a gradient while it is taken: of a --compressor under --gossip-order
    mix-then-compress alone. Bits do not depend on it."""

    def __post_init__(self) -> None:
        """One spelling of each name, so that stored runs and grids with an earlier one count as the same method."""
        for name in SPELLED:
            object.__setattr__(self, name, spelled(name, getattr(self, name)))

    def check(self) -> None:
        """Raise ValueError for a value that no run can have."""
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{option(name)} must be >= 1, got {value}")
            most = MOST.get(name, MOST_STEPS)
            if value is not None and value > most:
                raise ValueError(f"--{option(name)} must be at most {most:,}, got {value}")
        for name in ("alpha", "lr", "epochs", "minutes", "timeout"):
            value = getattr(self, name)
            _finite(self, name, value is None or value > 0, "> 0")
        at_least_zero = ("rho", "weight_decay", "tracking", "push", "seed", "split_seed")
        for name in (*at_least_zero, "ccl_model", "ccl_data"):
            value = getattr(self, name)
            _finite(self, name, value is None or value >= 0, ">= 0")
        for name in ("momentum", "qg_momentum", "warmup"):
            value = getattr(self, name)
            _finite(self, name, value is None or 0 <= value < 1, "in [0, 1)")
        for name in ("lr_decay", "consensus_step"):
            _finite(self, name, 0 < getattr(self, name) <= 1, "in (0, 1]")
        _finite(self, "pull", 0 <= self.pull <= 1, "in [0, 1]")
        schedule.parse(self.schedule, self.steps)
        if self.engine != _choice.AUTO:
            _choice.find(self.engine)
        for text in self.trackers:
            trackers.find(text)
        self._check_algorithm()
        source = choices.find(self.dataset, "datasets")
        is_own = choices.own_choice(self.dataset) is not None
        if self.data_dir is None and not is_own and "data_dir" in source.names():
            raise ValueError(f"--dataset {self.dataset} needs --data-dir, the folder of its files")

    def _check_algorithm(self) -> None:
        for name, default in DEFAULTS.items():
            value = getattr(self, name)
            # a rate that the algorithm has no use for does no harm; a choice would be expected to act
            is_choice = isinstance(default, (bool, str)) and value != default
            if is_choice and not methods.takes(self.algorithm, name, self.gradient):
                raise ValueError(uses.refusal(self.algorithm, name, self.gradient))
        methods.find(self.algorithm)
        methods.parse_sam(self.sam)
        methods.parse_period(self.period, self.steps)
        fails = faults.parse(self.faults, self.seed) is not None
        if fails and (reason := uses.obstacle(self, "faults")) is not None:
            raise ValueError(reason)
        if self.push_sum and self.choco is not None:
            raise ValueError(
                f"--push-sum sends models whole, it takes no --compressor {self.compressor}"
            )
        self._check_cross_features()

    def _check_cross_features(self) -> None:
        """Neighbors must know each other's whole models, and each agent take gradients of its own loss alone."""
        choco = self.choco
        if not (self.ccl_model or self.ccl_data):
            return
        able = [name for name in methods.names() if methods.takes_cross_features(name)]
        if not methods.takes_cross_features(self.algorithm):
            raise ValueError(
                "--ccl-model and --ccl-data need an algorithm on a graph without cross-gradients "
                f"({', '.join(able)}), got {self.algorithm}"
            )
        if choco is not None:
            raise ValueError(
                f"--ccl-model and --ccl-data need models sent whole, got --compressor {self.compressor}"
            )

    @property
    def counts(self) -> tuple[int, ...] | None:
        """Agents of each process; None spreads them evenly. Raises ValueError for a text that says no numbers."""
        if self.placement is None:
            return None
        parts = self.placement.split(",")
        if not all(part.strip().isdigit() and int(part) for part in parts):
            raise ValueError(
                f"--placement must be numbers of agents >= 1 such as 3,1,2,2, got {self.placement!r}"
            )
        return tuple(map(int, parts))

    @property
    def trackers(self) -> tuple[str, ...]:
        """Who writes the run down besides, each once. Raises ValueError for a text that names none."""
        asked = trackers.names_in(self.track)
        further = ("tensorboard",) if self.tensorboard and "tensorboard" not in asked else ()
        return (*asked, *further)

    @property
    def choco(self) -> Choco | None:
        """How messages are compressed; None sends models whole."""
        return messages.build(
            self.compressor, self.gossip_order, self.running_sum, self.adaptive_gossip
        )

    def plain(self) -> dict[str, Any]:
        """All options by name as JSON knows them: paths are text."""
        return {n: str(v) if isinstance(v, Path) else v for n, v in asdict(self).items()}

    @property
    def has_alpha(self) -> bool:
        """Whether the partition has use for --alpha."""
        return "alpha" in choices.find(self.partition, "partitions").names()

    @property
    def seed_of_split(self) -> int:
        """What the split is drawn from, with the default filled in."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations, with the default filled in."""
        return self.eval_every or max(1, self.steps // 20)

    @property
    def checkpoint_interval(self) -> int:
        """Steps between checkpoints, with the default filled in."""
        return self.checkpoint_every or self.evaluation_interval


COUNTS = (
    *("agents", "steps", "batch_size", "chunk", "threads"),
    *("eval_every", "checkpoint_every", "gossip_every"),
)
# counters are int64, and no machine does so many steps; threads are memory
MOST_STEPS = 10**12
MOST = {"threads": 1024}
# what float32 and the generators of random numbers hold
LARGEST, SEEDS = 3e38, 2**63
# of several processes
OVER_RANKS = ("placement", "ranks", "timeout", "overlap")
# they say where a run lies and how long it may take now, not what it is
NOT_STORED = ("out", "resume", "minutes", *OVER_RANKS)
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(TrainConfig)}


# option -> the names whose spelling does not count, in capitals or without hyphens
SPELLED: dict[str, Callable[[], Iterable[str]]] = {
    "algorithm": methods.names,
    "topology": topology.names,
    "compressor": messages.names,
    "engine": _choice.names,
    "dataset": lambda: choices.names("datasets"),
    "model": lambda: choices.names("networks"),
    "partition": lambda: choices.names("partitions"),
    "feature_skew": lambda: choices.names("feature_skews"),
}


def spelled(name: str, value: Any) -> Any:
    """An option's value in the one spelling that counts."""
    is_name = name in SPELLED and isinstance(value, str)
    return choices.spelled(value, SPELLED[name]()) if is_name else value


def _finite(config: TrainConfig, name: str, holds: bool, rule: str) -> None:
    value = getattr(config, name)
    if value is not None and not (holds and math.isfinite(value)):
        raise ValueError(f"--{option(name)} must be finite and {rule}, got {value}")
    most = SEEDS - 1 if isinstance(value, int) else LARGEST
    if value is not None and value > most:
        raise ValueError(f"--{option(name)} must be at most {most:g}, got {value}")
