"""Methods that are put together on the command line: a rule of one's own, or an algorithm with another gradient."""

import inspect
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import Parameter

import fastsaddle as fs
from fastsaddle.gradients import Cross, Gradient, Mixed
from fastsaddle.optimizer.hyperparameters import Flag, Hyperparameter, Pair
from fastsaddle.sim import choices

# gradients that options name; "auto" is the algorithm's own
AUTO, PLAIN, SAM = "auto", "plain", "sam"
# options that act on any rule, and those that are hyperparameters of some
OF_RULES = ("topology", "consensus_step", "compressor", "seed", "state_dtype", "lr", "weight_decay")
SHARED = ("momentum", "nesterov")

Params = Iterable[Parameter] | list[dict[str, Any]]


@dataclass(frozen=True)
class RuleChoice(choices.Choice):
    """A `fs.rules.Rule` of the user's, called as an optimizer's class is: SGD's place is taken by the rule."""

    def names(self) -> tuple[str, ...]:
        """The options that it has use for."""
        sums = ("push_sum",) if self.function.takes_push_sum else ()
        return (*OF_RULES, *sums, *(name for name in SHARED if name in self._hyperparameters))

    def default(self, name: str) -> Any:
        """A hyperparameter's value where no option gives one; None where the rule has none of that name."""
        texts = dict(zip(self._ordered(), self.arguments, strict=False))
        if name in texts:
            return _value(self, name, texts[name].partition("=")[2] or texts[name])
        return self._hyperparameters[name].default if name in self._hyperparameters else None

    @property
    def _hyperparameters(self) -> Mapping[str, Hyperparameter]:
        found: Mapping[str, Hyperparameter] = self.function.hyperparameters
        return found

    def __call__(self, **offered: Any) -> fs.Optimizer:
        """Raises ValueError for an option that the rule does not have."""
        # a momentum of zero is a choice; without --nesterov the rule's own default stands
        chosen = {n: offered[n] for n in SHARED if n in offered and offered[n] is not False}
        given = {n: value for n, value in chosen.items() if n in self._hyperparameters}
        ordered = self._ordered()
        choices.check_once([*ordered, *offered.get("own", {})], self.text)
        for argument, name in zip(self.arguments, ordered, strict=False):
            given[name] = _value(self, name, argument.partition("=")[2] or argument)
        rule = self.function(**{**given, **offered.get("own", {})})
        return fs.Optimizer(
            offered["params"],
            offered["lr"],
            gradient=offered.get("gradient"),
            rule=rule,
            communicator=fs.comm.Gossip(
                offered["topology"],
                offered["compressor"],
                offered["consensus_step"],
                every=offered.get("gossip_every", 1),
                push_sum=offered.get("push_sum", False),
            ),
            weight_decay=offered["weight_decay"],
            state_dtype=offered["state_dtype"],
            seed=offered["seed"],
            placement=offered.get("placement"),
        )

    def _ordered(self) -> list[str]:
        """Which hyperparameter each argument after the colons is for."""
        names = list(self._hyperparameters)
        if len(self.arguments) > len(names):
            raise ValueError(
                f"{self.text} has too many arguments after the colon, it takes {', '.join(names) or 'none'}"
            )
        told = (argument.partition("=") for argument in self.arguments)
        return [t[0] if t[1] else name for t, name in zip(told, names, strict=False)]


def build(
    choice: choices.Choice, params: Params, gradient: str, option: str, options: dict[str, Any]
) -> fs.Optimizer:
    """The optimizer that an algorithm, `--gradient` and `--option` come to; options it does not take are left out.

    Raises ValueError for an option that the algorithm does not have, and for parts that cannot be combined.
    """
    own = parse(choice, option)
    wanted = find_gradient(gradient, options)
    if isinstance(choice, RuleChoice):
        found: fs.Optimizer = choice(params=params, own=own, gradient=wanted, **options)
        return found
    placement = options.get("placement")
    every = options.pop("gossip_every", 1)
    if wanted is None and every == 1:
        if placement is not None and "placement" not in choice.names():
            raise ValueError(
                f"--algorithm {choice.text} works in one process: its constructor takes no placement"
            )
        found = choice(params=params, **{**options, **own})
        return found
    if type(choice.function) is type and choice.function.__module__.startswith("fastsaddle."):
        # its parts are what is wanted: they are connected to a row of one number
        agents = options["agents"]
        row = Parameter(torch.zeros(agents, 1))
        with warnings.catch_warnings():
            # the optimizer that is made of them warns itself
            warnings.simplefilter("ignore")
            parts: fs.Optimizer = choice(params=[row], **{**options, **own, "placement": None})
        plan = parts.plan
        if every != 1:
            if not isinstance(plan, fs.comm.Gossip):
                raise ValueError(
                    f"{choice.text} talks in every step, it takes no --gossip-every {every}"
                )
            plan = replace(plan, every=every)
        return fs.Optimizer(
            params,
            options["lr"],
            gradient=parts.gradient if wanted is None else within(parts.gradient, wanted),
            rule=parts.rule,
            communicator=plan,
            weight_decay=options["weight_decay"],
            state_dtype=parts.state_dtype,
            seed=options["seed"],
            placement=placement,
        )
    if wanted is None:
        raise ValueError(
            f"--gossip-every is for built-in algorithms and own rules, {choice.text} says itself when its agents talk"
        )
    raise ValueError(
        f"--gradient is for built-in algorithms and own rules, {choice.text} says itself where its gradients are taken"
    )


def within(old: Gradient, new: Gradient) -> Gradient:
    """`new` taken where `old` is taken: at the neighbors' models, at mixed ones, or at the model."""
    if isinstance(old, Cross):
        return Cross(old.kind, new, old.perturb_which, old.mixed_self_gradient)
    return Mixed(new) if isinstance(old, Mixed) else new


def find_gradient(text: str, options: dict[str, Any]) -> Gradient | None:
    """What `--gradient` names: plain, sam, or the user's own by import path; None for the algorithm's own.

    Raises ValueError for another name, and for something that is no Gradient.
    """
    if text == AUTO:
        return None
    if text == PLAIN:
        return fs.gradients.Plain()
    if text == SAM:
        return fs.gradients.SAM(options["rho"], options["adaptive"], options["sam"])
    own = choices.own_choice(text)
    if own is None:
        raise ValueError(choices.unknown("--gradient", text, (AUTO, PLAIN, SAM)))
    if not (inspect.isclass(own.function) and issubclass(own.function, Gradient)):
        raise ValueError(f"--gradient {text} must be a subclass of fs.gradients.Gradient")
    found: Gradient = own(**{name: options[name] for name in ("rho", "adaptive", "sam")})
    return found


def parse(choice: choices.Choice, text: str) -> dict[str, Any]:
    """The values that `--option` gives: name=value, several with commas between them.

    Raises ValueError for a text that is none, a name that the algorithm does not have, or a value of another kind.
    """
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise ValueError(f"--option must be name=value, got {part!r}")
        choices.check_once([*found, name], "--option")
        found[name] = _value(choice, name, value.strip())
    return found


def _value(choice: choices.Choice, name: str, text: str) -> Any:
    hyperparameters = getattr(choice.function, "hyperparameters", {})
    kind = hyperparameters.get(name)
    if kind is not None and isinstance(choice, RuleChoice):
        try:
            if isinstance(kind, Flag):
                return choices.boolean(text)
            return tuple(map(float, text.split(":"))) if isinstance(kind, Pair) else float(text)
        except ValueError as error:
            rule = "true or false" if isinstance(kind, Flag) else str(kind)
            raise ValueError(f"--option {name} must be {rule}, got {text!r}") from error
    parameters = inspect.signature(choice.function).parameters
    if name not in parameters or name in ("params", "self"):
        able = [
            n for n in (*hyperparameters, *parameters) if n not in ("params", "self", "options")
        ]
        raise ValueError(
            f"--option {name} needs an algorithm that has it, {choice.text} has "
            f"{', '.join(dict.fromkeys(able)) or 'none'}"
        )
    return choices.convert(choice.text, parameters[name], text)
