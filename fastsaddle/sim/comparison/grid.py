"""A comparison as a grid of runs: every option of `train` may have several values."""

import hashlib
import itertools
import json
import math
import reprlib
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from fastsaddle.graphs import topology
from fastsaddle.sim import methods
from fastsaddle.sim.config import DEFAULTS, NOT_STORED, TrainConfig, option, spelled
from fastsaddle.sim.run import topologies
from fastsaddle.sim.uses import is_wanted, obstacle

# how a run is carried out, not what it computes: a finished run stays finished when they change
CARRIED_OUT = (
    *("data_dir", "download", "device", "engine", "chunk", "cuda_graph", "threads"),
    *("checkpoint_every", "track", "tensorboard"),
)
SEEDS = ("seed", "split_seed")
VALIDATION = "validation"
# which take a minute to be checked
MOST_RUNS = 20_000
FLAGS = {"true": True, "false": False}
Values = dict[str, list[Any]]


@dataclass(frozen=True)
class Cell:
    """One run of a grid. `name` depends on what is computed only, so that a larger grid finds it again."""

    config: TrainConfig

    @property
    def identity(self) -> dict[str, Any]:
        """The options that differ from the defaults and change what is computed."""
        return {
            name: value
            for name, value in self.config.plain().items()
            if name not in (*CARRIED_OUT, *NOT_STORED) and value != DEFAULTS[name]
        }

    @property
    def name(self) -> str:
        """Name of the run's directory: the algorithm, and a digest of the identity."""
        first = _first_spelling(self.identity)
        content = json.dumps(first, sort_keys=True)
        stem = Path(first.get("algorithm", self.config.algorithm).split(":")[0]).stem
        return f"{stem}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Override:
    """Options for the part of a grid where all of `when` holds; `tune` are candidates there."""

    when: Values
    options: Values
    tune: Values


@dataclass(frozen=True)
class Grid:
    """All combinations of `options`, with `overrides` where they apply.

    `tune` are candidates to choose from on validation data before the real runs, `tuning` what else is different in
    the runs that choose.
    """

    options: Values
    overrides: list[Override] = field(default_factory=list)
    tune: Values = field(default_factory=dict)
    tuning: Values = field(default_factory=dict)

    def cells(self, chosen: Iterable[tuple[Values, Values]] = ()) -> list[Cell]:
        """The runs of the comparison; `chosen` are further overrides, from tuning."""
        further = [Override(when, options, {}) for when, options in chosen]
        return _cells(_combined(self.options, [*self.overrides, *further]))

    def tuning_cells(self) -> list[Cell]:
        """The runs that choose among the candidates, on validation data; none where nothing is tuned."""
        return _cells(self._tuning_combinations())

    def _tuning_combinations(self) -> list[dict[str, Any]]:
        if not self.tune and not any(o.tune for o in self.overrides):
            return []
        on = {"evaluate_on": [VALIDATION]}
        overrides = [replace(o, options={**o.options, **o.tune, **on}) for o in self.overrides]
        return _combined({**self.options, **self.tune, **self.tuning, **on}, overrides)

    @property
    def tuned(self) -> tuple[str, ...]:
        """Names of the options that tuning chooses."""
        return tuple(sorted({*self.tune, *(n for o in self.overrides for n in o.tune)}))

    def check_used(self, names: Iterable[str] | None = None) -> None:
        """Raise ValueError for an option, of `names` or of all, that none of the runs has use for.

        One that some of them have use for counts for those.
        """
        combinations = [*_combined(self.options, self.overrides), *self._tuning_combinations()]
        idle: dict[str, str] = {}
        used: set[str] = set()
        for combination in combinations:
            config = TrainConfig(**combination)
            for name in combination.keys() - used:
                reason = obstacle(config, name) if is_wanted(combination[name]) else None
                if reason is None:
                    used.add(name)
                else:
                    idle.setdefault(name, reason)
        for name in idle if names is None else names:
            if name in idle and name not in used:
                raise ValueError(idle[name])

    def check(self) -> None:
        """Raise ValueError for the first run that cannot be."""
        configs = [cell.config for cell in (*self.cells(), *self.tuning_cells())]
        for config in configs:
            config.check()
        # each graph once: a large one takes its time
        graphs = ((c.topology, c.agents, c.seed * topologies.is_own(c.topology)) for c in configs)
        for graph in dict.fromkeys(graphs):
            topologies.find(*graph)


def _first_spelling(identity: dict[str, Any]) -> dict[str, Any]:
    """The same options as earlier versions spelled them, so that a comparison of theirs goes on where it is."""
    values = dict(identity)
    if (algorithm := values.get("algorithm")) in methods.names():
        values["algorithm"] = algorithm.replace("-", "")
    graph, colon, rest = values.get("topology", "").partition(":")
    if graph in topology.names():
        values["topology"] = graph.replace("-", "_") + colon + rest
    return values


def varied(cells: list[Cell]) -> list[str]:
    """The options that are not the same in all cells, in the order of TrainConfig."""
    values = [asdict(cell.config) for cell in cells]
    names = [n for n in DEFAULTS if n not in (*CARRIED_OUT, *NOT_STORED)]
    return [n for n in names if any(v[n] != values[0][n] for v in values)]


def read_value(name: str, value: Any) -> Any:
    """An option's value as TrainConfig holds it, from the command line or from a file.

    Raises ValueError, naming the option, for an unknown one and for a value of the wrong type.
    """
    if name not in DEFAULTS or name in NOT_STORED:
        raise ValueError(f"--{option(name)} is not an option of train that a grid can have")
    if value is None:
        if types.NoneType not in _alternatives(name):
            raise ValueError(f"--{option(name)} needs a value, got null")
        return None
    if isinstance(value, (list, dict, set)):
        raise ValueError(f"--{option(name)} takes one value, got {reprlib.repr(value)}")
    if isinstance(value, bool):
        if not isinstance(DEFAULTS[name], bool):
            raise ValueError(f"--{option(name)} takes a value, got {value}")
        return value
    # an override's `when` is compared with the options as texts
    return spelled(name, _parse(name, str(value)))


@cache
def _alternatives(name: str) -> tuple[Any, ...]:
    """The types that an option's value may have."""
    kind = get_type_hints(TrainConfig)[name]
    return get_args(kind) or (kind,)


@cache
def _parse(name: str, text: str) -> Any:
    """What the command line's parser makes of a text; that one would print what is wrong, for all threads."""
    kinds = _alternatives(name)
    if kinds == (bool,):
        if text.lower() not in FLAGS:
            raise ValueError(f"--{option(name)} must be true or false, got {text!r}")
        return FLAGS[text.lower()]
    if types.NoneType in kinds and text == "None":
        return None
    number = next((kind for kind in (int, float) if kind in kinds), None)
    if number is not None:
        with suppress(ValueError):
            return number(text)
    elif Path in kinds:
        return Path(text)
    # of texts that are listed, these are the alternatives
    elif str in kinds or text in kinds:
        return text
    kind = TrainConfig.__annotations__[name]
    shown = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
    raise ValueError(f"--{option(name)} must be {shown}, got {text!r}")


def _cells(combinations: list[dict[str, Any]]) -> list[Cell]:
    cells = [Cell(_without_effect_reset(c)) for c in combinations]
    return list({cell.name: cell for cell in cells}.values())


def _combined(options: Values, overrides: list[Override]) -> list[dict[str, Any]]:
    """Every combination of values, with the overrides that hold for it."""
    check_number(math.prod(map(len, options.values())))
    combinations = list(_product(options))
    # one after the other: a later override may ask for what an earlier one has set
    for override in overrides:
        of_each = math.prod(map(len, override.options.values()))
        holding = sum(_holds(override, combination) for combination in combinations)
        check_number(len(combinations) + holding * (of_each - 1))
        combinations = [new for old in combinations for new in _overridden(old, override)]
    return combinations


def check_number(runs: int) -> None:
    """Raise ValueError for more runs than a grid can have."""
    if runs > MOST_RUNS:
        raise ValueError(f"a grid can have {MOST_RUNS:,} runs, this one has {runs:,}")


def _holds(override: Override, combination: dict[str, Any]) -> bool:
    return all(combination.get(n, DEFAULTS[n]) in wanted for n, wanted in override.when.items())


def _overridden(combination: dict[str, Any], override: Override) -> Iterable[dict[str, Any]]:
    if _holds(override, combination):
        single = {name: [value] for name, value in combination.items()}
        return _product({**single, **override.options})
    return [combination]


def _product(options: Values) -> Iterable[dict[str, Any]]:
    for values in itertools.product(*options.values()):
        yield dict(zip(options, values, strict=True))


def _without_effect_reset(options: dict[str, Any]) -> TrainConfig:
    """Options that this run has no use for at their defaults, so that no run is done twice."""
    config = TrainConfig(**options)
    idle = [n for n in options if n not in CARRIED_OUT and obstacle(config, n) is not None]
    return replace(config, **{name: DEFAULTS[name] for name in idle})


def as_lists(values: Any, within: str = "") -> Values:
    """Options of a file or command line with every value read and in a list.

    Raises ValueError that names the option, after `within`, for what is none or has a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        what = within.rstrip(".") or "a grid"
        raise ValueError(f"{what} must hold options by name, got {reprlib.repr(values)}")
    read: Values = {}
    for key, value in values.items():
        if not isinstance(key, str) or not key.isprintable():
            raise ValueError(f"{within}{key!r} must be the name of an option")
        name = key.replace("-", "_")
        if name in read:
            raise ValueError(f"{within}{key} is given twice, in two spellings")
        several = value if isinstance(value, list) else [value]
        if not several:
            raise ValueError(f"{within and f'{within}{key}: '}--{option(name)} has no value")
        try:
            read[name] = [read_value(name, one) for one in several]
        except ValueError as error:
            raise ValueError(f"{within}{key}: {error}" if within else str(error)) from error
    return read
