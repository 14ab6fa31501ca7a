"""What `fastsaddle train --help` shows: what most runs need, what one method takes, or everything."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import fields

import tyro

from fastsaddle.sim import methods
from fastsaddle.sim.config import OVER_RANKS, TrainConfig
from fastsaddle.sim.help import in_panels
from fastsaddle.sim.run.world import is_launched
from fastsaddle.sim.uses import obstacle

HELP, ALL = ("-h", "--help"), "--help-all"
PANELS: dict[str, tuple[str, ...]] = {
    "data": (
        *("dataset", "data_dir", "download", "partition", "alpha", "split_seed", "feature_skew"),
        *("augment", "evaluate_on"),
    ),
    "model": ("model", "init"),
    "graph": ("agents", "topology", "faults", "push_sum"),
    "method": (
        *("algorithm", "gradient", "option", "lr", "schedule", "lr_decay", "warmup", "momentum"),
        *("nesterov", "qg_momentum", "quasi_global", "rho", "adaptive", "sam", "cross_gradients"),
        *("perturb", "mixed_self_gradient", "tracking", "period", "pull", "pull_schedule", "push"),
        *("push_schedule", "weight_decay", "norm_decay", "ccl_model", "ccl_data"),
    ),
    "messages": (
        *("compressor", "consensus_step", "gossip_every", "gossip_order", "running_sum"),
        *("adaptive_gossip", "state_dtype"),
    ),
    "run": (
        *("steps", "epochs", "batch_size", "seed", "device", "threads", "engine", "precision"),
        *("chunk", "cuda_graph", "eval_every", "checkpoint_every", "track", "tensorboard", "out"),
        *("resume", "minutes"),
    ),
    "torchrun": OVER_RANKS,
}
# what most runs need
FEW = (
    *("dataset", "data_dir", "partition", "alpha", "model", "agents", "topology", "algorithm"),
    *("gradient", "lr", "schedule", "momentum", "rho", "weight_decay", "compressor", "steps"),
    *("batch_size", "seed", "out", "resume"),
)
FURTHER = "`fastsaddle train --algorithm NAME --help` shows what one method takes, `--help-all` every option."
METADATA = {one.name: one.metadata for one in fields(TrainConfig)}


def is_asked_for(arguments: list[str]) -> bool:
    """Whether a command line asks for help."""
    return any(word in (*HELP, ALL) for word in arguments)


def show(arguments: list[str]) -> None:
    """Print the help that a command line asks for.

    Raises ValueError for a line whose other options cannot be read as a run's.
    """
    rest = [word for word in arguments if word not in (*HELP, ALL)]
    if ALL in arguments:
        _print(lambda name: True, _with_methods)
    elif not rest:
        _print(lambda name: name in FEW, lambda name: METADATA[name]["brief"], FURTHER)
    else:
        config = tyro.cli(TrainConfig, args=rest, prog="fastsaddle train")
        _print(lambda name: acts(config, name), lambda name: METADATA[name]["help"])


def acts(config: TrainConfig, name: str) -> bool:
    """Whether an option can change the run that the others describe."""
    if name in OVER_RANKS:
        return is_launched()
    return obstacle(config, name) is None


def _with_methods(name: str) -> str:
    """An option's text, with the algorithms that take it where these are few."""
    able = methods.taking(methods.SCHEDULED.get(name, name))
    text: str = METADATA[name]["help"]
    return text if len(able) > len(methods.names()) // 2 else f"{text} Of {', '.join(able)}."


def _print(is_shown: Callable[[str], bool], text: Callable[[str], str], further: str = "") -> None:
    chosen = {panel: tuple(filter(is_shown, names)) for panel, names in PANELS.items()}
    view = in_panels(TrainConfig, chosen, text)
    description = inspect.cleandoc(TrainConfig.__doc__ or "")
    if further:
        description += f"\n\n{further}"
    try:
        tyro.cli(view, args=["--help"], prog="fastsaddle train", description=description)
    except SystemExit:
        # which has printed it
        sys.stdout.flush()
