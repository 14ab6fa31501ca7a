"""Which options a run has use for, as its parts declare it: one that would do nothing is refused where it is typed."""

import inspect
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from fastsaddle.graphs import topology
from fastsaddle.sim import choices, methods
from fastsaddle.sim.choices import option
from fastsaddle.sim.engines import _choice
from fastsaddle.sim.run import composed, faults, messages

if TYPE_CHECKING:
    from fastsaddle.sim.config import TrainConfig

# option -> the choice whose signature says whether it is used, and the folder of its built-in pieces
OF_CHOICES = {
    "alpha": ("partition", "partitions"),
    "data_dir": ("dataset", "datasets"),
    "download": ("dataset", "datasets"),
}
CROSS_FEATURES = ("ccl_model", "ccl_data")
# a chain, which every method takes
FEW_AGENTS = 3
# option -> a value that is tried on a small optimizer, whose parts say whether they go with it
TRIED: dict[str, dict[str, Any]] = {
    "faults": {"faults": "links:0.1"},
    "gossip_every": {"gossip_every": 2},
}

# what an optimizer is made of, but its graph
MADE_OF = (
    *("algorithm", "gradient", "option", "gossip_order", "running_sum", "adaptive_gossip"),
    *(name for name in methods.OF_OPTIMIZERS if name != "topology"),
)
OWN_PARTS = ("algorithm", "gradient", "compressor")


def obstacle(config: "TrainConfig", name: str) -> str | None:
    """Why a run has no use for an option, and what would have; None where it has.

    Raises ValueError for choices that nothing has.
    """
    algorithm = config.algorithm
    if not methods.takes(algorithm, name, config.gradient):
        return refusal(algorithm, name, config.gradient)
    if name in OF_CHOICES:
        chooser, folder = OF_CHOICES[name]
        text = getattr(config, chooser)
        taken = name in choices.find(text, folder).names()
        return None if taken else f"--{chooser.replace('_', '-')} {text} takes no --{option(name)}"
    return _of_others(config, name)


def _of_others(config: "TrainConfig", name: str) -> str | None:
    """Options that act through another option."""
    if name in messages.OF_COMPRESSION and config.compressor == messages.NONE:
        return f"--{option(name)} needs a --compressor, got none"
    if name == "state_dtype" and config.compressor == messages.NONE:
        if methods.takes(config.algorithm, "momentum"):
            return None
        return (
            f"--state-dtype needs a --compressor, got none: {config.algorithm} keeps no other state"
        )
    if name in CROSS_FEATURES and not methods.takes_cross_features(config.algorithm):
        able = [n for n in methods.names() if methods.takes_cross_features(n)]
        return f"--{option(name)} needs one of {', '.join(able)}, got {config.algorithm}"
    if name in CROSS_FEATURES and config.compressor != messages.NONE:
        return f"--{option(name)} needs models sent whole, got --compressor {config.compressor}"
    if name == "faults" and not methods.takes(config.algorithm, "topology"):
        return f"--faults {config.faults} needs an algorithm on a graph, {config.algorithm} averages all agents"
    if name == "gossip_every" and not methods.takes(config.algorithm, "topology"):
        return f"--gossip-every needs an algorithm on a graph, {config.algorithm} has --period"
    if name in TRIED and (reason := _refused(config, name)) is not None:
        return f"--{option(name)}: {reason}"
    if name == "steps" and config.epochs is not None:
        return "--steps and --epochs exclude each other"
    if name == "lr_decay" and config.schedule.partition(":")[0] != "step":
        return f"--lr-decay needs --schedule step, got {config.schedule}"
    if name == "norm_decay" and not config.weight_decay:
        return "--norm-decay needs a --weight-decay above 0"
    if name == "nesterov" and not _momentum(config):
        return "--nesterov needs a --momentum above 0"
    if name == "perturb" and config.gradient == composed.PLAIN:
        return "--perturb needs sharpness-aware gradients, got --gradient plain"
    if name == "split_seed" and not _draws_the_split(config):
        return f"--partition {config.partition} draws nothing, it takes no --split-seed"
    if name == "chunk" and config.engine != _choice.AUTO:
        engine: Any = _choice.find(config.engine).function
        if engine.one_by_one:
            return f"--engine {config.engine} takes agents one by one, it takes no --chunk"
    return None


def _refused(config: "TrainConfig", name: str) -> str | None:
    """Why an algorithm cannot be made with an option that it can be made without; None where it can."""
    made_of = {field: getattr(config, field) for field in MADE_OF}
    small = type(config)(agents=FEW_AGENTS, **made_of)
    # a file of the user's own may change
    is_own = any(choices.OWN.fullmatch(getattr(config, part)) for part in OWN_PARTS)
    return (_tried if is_own else _tried_once)(small, name)


def _tried(config: "TrainConfig", name: str) -> str | None:
    # makes the options of an optimizer, and needs this module
    from fastsaddle.sim.run.simulation import optimizer_options

    def build(config: "TrainConfig") -> None:
        graph = faults.over(config.faults, config.seed, topology.chain(FEW_AGENTS))
        options = optimizer_options(config, graph, 1)
        method = config.algorithm, options.pop("agents"), config.gradient, config.option
        methods.build_small(*method, **options)

    try:
        build(config)
    except ValueError:
        # something else is wrong, which is said elsewhere
        return None
    try:
        build(replace(config, **TRIED[name]))
    except ValueError as error:
        # the graph that was tried is none of the user's
        return str(error).partition(", got Schedule(")[0]
    return None


# a grid asks for each of its runs
_tried_once = cache(_tried)


def refusal(algorithm: str, name: str, gradient: str) -> str:
    """An algorithm has no use for an option: the error, with those that have."""
    able = methods.taking(methods.SCHEDULED.get(name, name))
    ways = ["use " + " or ".join(filter(None, (", ".join(able[:-1]), able[-1])))]
    if name in methods.OF_SAM and gradient != composed.SAM:
        ways.insert(0, "add --gradient sam")
        algorithm += "" if gradient == composed.AUTO else f" with --gradient {gradient}"
    return f"{algorithm} takes no --{option(name)}: {', or '.join(ways)}"


def check_typed(config: "TrainConfig", typed: Iterable[str]) -> None:
    """Raise ValueError for an option that was typed and that the run has no use for.

    One that says that something is left out (none, --no-...) does no harm.
    """
    own = composed.parse(methods.find(config.algorithm), config.option)
    for name in typed:
        if name in own:
            raise ValueError(f"--{option(name)} is given twice: as such and by --option")
        if is_wanted(getattr(config, name)) and (reason := obstacle(config, name)) is not None:
            raise ValueError(reason)


def is_wanted(value: Any) -> bool:
    """Whether a value asks for something."""
    return value is not None and value is not False and value != messages.NONE


def _momentum(config: "TrainConfig") -> float | None:
    """The momentum of a run, which may be its algorithm's own."""
    choice = methods.find(config.algorithm)
    own = composed.parse(choice, config.option)
    if "momentum" in own or config.momentum is not None:
        return own.get("momentum", config.momentum)
    if isinstance(choice, composed.RuleChoice):
        return choice.default("momentum")
    given = inspect.signature(choice.function).parameters.get("momentum")
    # without one of that name it is not ours to judge
    return 1.0 if given is None or given.default is given.empty else given.default


def _draws_the_split(config: "TrainConfig") -> bool:
    texts = ((config.partition, "partitions"), (config.feature_skew, "feature_skews"))
    return any("seed" in choices.find(t, folder).names() for t, folder in texts if t is not None)
