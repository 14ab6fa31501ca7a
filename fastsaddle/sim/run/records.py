"""What the JSON files of runs and comparisons hold; keys are only ever added, so readers leave unknown ones alone."""

from typing import Any, TypedDict


class _Row(TypedDict):
    step: int
    loss: float | None
    consensus_accuracy: float
    mean_accuracy: float
    worst_accuracy: float
    consensus_distance: float | None
    bytes_sent: int
    seconds: float


class Row(_Row, total=False):
    """A line of metrics.jsonl; None stands for what was not finite."""

    train_loss: float | None
    lr: float | None
    update_norm: float | None
    error_norm: float | None
    compression_error: float | None
    gradient_evaluations: float
    step_seconds: float
    evaluation_seconds: float


class Partition(TypedDict):
    """partition.json: `counts` are the samples of each class at each agent."""

    classes: list[str]
    counts: list[list[int]]


class Diverged(TypedDict):
    """diverged.json, in a run that came to a gradient that was not finite."""

    step: int
    message: str


class Sharpness(TypedDict, total=False):
    """sharpness.json."""

    rho: float
    samples: int
    sam_sharpness: float | None
    top_eigenvalue: float | None
    probes: int
    hessian_trace: float | None
    hessian_trace_error: float | None
    kappa: float
    valley_samples: int
    mean_valley: float | None


class CellEntry(TypedDict):
    """Where a run of a comparison lies."""

    directory: str


class ChosenEntry(TypedDict):
    """What tuning took for a part of a comparison."""

    when: dict[str, Any]
    values: dict[str, Any]
    accuracy: float | None
    edges: list[str]


class _Comparison(TypedDict):
    cells: list[CellEntry]


class Comparison(_Comparison, total=False):
    """compare.json."""

    tuning: list[CellEntry]
    chosen: list[ChosenEntry]


class Extension(TypedDict):
    """Numbers that a run had until it was made longer, with the steps done by then."""

    at_step: int
    steps: int
    epochs: float | None


class Recorded(TypedDict, total=False):
    """What config.json holds besides the options."""

    extended: list[Extension]

    cuda_graph_reason: str
    graph: str
    bits: str
    backend: dict[str, str]
    machine: str
    versions: dict[str, str]
