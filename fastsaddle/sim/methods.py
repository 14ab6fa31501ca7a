"""The algorithms that a run can choose, and which options each of them takes."""

import inspect
import re
import warnings
from functools import cache
from typing import Any

import torch
from torch.nn import Parameter

import fastsaddle as fs
from fastsaddle.comm.period import QSR
from fastsaddle.gradients.ascents import ESAM, Ascent, FullSAM, LookSAM, MomentumSAM
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.rules.base import Rule
from fastsaddle.sim import choices
from fastsaddle.sim.run import composed
from fastsaddle.sim.run.composed import RuleChoice

# options that are an optimizer's, by the name that both the option and the constructor have
OF_OPTIMIZERS = (
    *("lr", "weight_decay", "rho", "adaptive", "sam", "perturb", "cross_gradients"),
    *("mixed_self_gradient", "momentum", "qg_momentum", "nesterov", "quasi_global", "tracking"),
    *("period", "pull", "push", "topology", "consensus_step", "push_sum", "compressor"),
    "state_dtype",
)
# those of sharpness-aware gradients, which any algorithm can have by --gradient sam
OF_SAM = ("rho", "adaptive", "sam")
# options that say how another one moves
SCHEDULED = {"pull_schedule": "pull", "push_schedule": "push"}
# rules whose step sends the models that it begins with: neighbors know these without a further message
SENDING_MODELS = (fs.rules.GUT, fs.rules.GradientTracking, fs.rules.MomentumTracking)
# where a class name is cut into words: before a capital and two small letters, and where such a word ends
WORDS = re.compile(r"(?<=.)(?=[A-Z][a-z]{2})|(?<=[a-z]{2})(?=[A-Z])")
ASCENTS = {"full": FullSAM, "looksam": LookSAM, "momentum": MomentumSAM, "esam": ESAM}


def names() -> tuple[str, ...]:
    """The built-in algorithms, as options spell them: every public optimizer, RelaySGD as relay-sgd."""
    return tuple(sorted(_public()))


def spelled(text: str) -> str:
    """A built-in algorithm as options spell it, however it was written (QSADDLe, relaysgd); any other text as it is."""
    return choices.spelled(text, _public())


def find(text: str) -> choices.Choice:
    """The optimizer's class that `--algorithm` names, or the user's own class of optimizer or rule by import path.

    Raises ValueError for an unknown name, and for something that is neither.
    """
    if (name := spelled(text)) in _public():
        return choices.Choice(name, _public()[name])
    own = choices.own_choice(text)
    if own is None:
        raise ValueError(choices.unknown("--algorithm", text, names()))
    if inspect.isclass(own.function) and issubclass(own.function, Rule):
        return RuleChoice(own.text, own.function, own.arguments)
    if not (inspect.isclass(own.function) and issubclass(own.function, Optimizer)):
        raise ValueError(f"--algorithm {text} must be a subclass of fs.rules.Rule or fs.Optimizer")
    return own


def title(text: str) -> str:
    """A built-in algorithm as papers write it (QSADDLe), by its class's name; any other text as it is."""
    public = _public()
    return public[spelled(text)].__name__ if spelled(text) in public else text


def takes(text: str, option: str, gradient: str = composed.AUTO) -> bool:
    """Whether an algorithm with a gradient has use for an option: of optimizers' ones, what its constructor names."""
    option = SCHEDULED.get(option, option)
    if option in OF_SAM and gradient != composed.AUTO:
        own = choices.own_choice(gradient)
        return gradient == composed.SAM if own is None else option in own.names()
    return option not in OF_OPTIMIZERS or option in find(text).names()


def taking(option: str) -> list[str]:
    """The built-in algorithms that take an option."""
    return [name for name in names() if takes(name, option)]


def takes_cross_features(text: str) -> bool:
    """Whether each agent of an algorithm takes gradients of its own loss alone, and has neighbors."""
    arguments = find(text).names()
    return "topology" in arguments and "cross_gradients" not in arguments


def build(
    text: str,
    params: composed.Params,
    gradient: str = composed.AUTO,
    option: str = "",
    **options: Any,
) -> Optimizer:
    """The optimizer over stacked parameters; options that it does not take are left out."""
    return composed.build(find(text), params, gradient, option, options)


def build_small(
    text: str, agents: int, gradient: str = composed.AUTO, option: str = "", **options: Any
) -> Optimizer:
    """The optimizer of models of one number, to see whether its parts go together; its warnings are not said.

    Raises ValueError where they do not.
    """
    with warnings.catch_warnings():
        # of what may be slow or oscillate, not of what cannot be
        warnings.simplefilter("ignore")
        rows = [Parameter(torch.zeros(agents, 1))]
        return build(text, rows, gradient, option, agents=agents, **options)


def parse_sam(text: str) -> Ascent:
    """The way to a SAM gradient that `--sam` names: full, looksam:5:0.7, momentum or esam:0.6:0.5.

    Raises ValueError for another name, and for arguments that it refuses.
    """
    name, *arguments = text.split(":")
    if name not in ASCENTS:
        raise ValueError(
            f"--sam must be one of {', '.join(ASCENTS)}, got {text!r}{choices.meant(name, ASCENTS)}"
        )
    return choices.Choice(f"--sam {text}", ASCENTS[name], tuple(arguments))()


def parse_period(text: str, steps: int) -> int | QSR:
    """What `--period` means in a run of `steps`: a number, or the quadratic synchronization rule, qsr:4:0.0175.

    Raises ValueError for anything else.
    """
    name, *arguments = text.split(":")
    if name == "qsr":
        return choices.Choice(f"--period {text}", QSR, tuple(arguments))(total=steps)
    if not text.isdigit() or not int(text):
        raise ValueError(f"--period must be a number of steps >= 1 or qsr:4:0.0175, got {text!r}")
    return int(text)


@cache
def _public() -> dict[str, type[Optimizer]]:
    classes = (getattr(fs, name) for name in fs.__all__)
    return {
        WORDS.sub("-", cls.__name__).lower(): cls
        for cls in classes
        if inspect.isclass(cls) and issubclass(cls, Optimizer) and cls is not Optimizer
    }
