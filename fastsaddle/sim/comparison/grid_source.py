"""Where a grid comes from: a TOML or YAML file, the command line, or both."""

import math
import reprlib
import sys
from pathlib import Path
from typing import Any

from fastsaddle.sim.comparison.grid import (
    VALIDATION,
    Grid,
    Override,
    Values,
    as_lists,
    check_number,
)
from fastsaddle.sim.config import option

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT = {"algorithm": ["dsgd", "dsgdm", "qgm", "dsaddle", "qsaddle"], "seed": [0, 1, 2]}
TABLES = ("tune", "tuning", "override")


def read_file(path: Path) -> dict[str, Any]:
    """The content of a grid file. Raises ValueError for one that cannot be read, OSError for none."""
    if path.suffix in (".yaml", ".yml"):
        content = _read_yaml(path)
    elif path.suffix == ".toml":
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not TOML: {_line(error)}") from error
    else:
        raise ValueError(f"a grid file must end in .toml, .yaml or .yml, got {path}")
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold options by name, got {type(content).__name__}")
    return content


def _read_yaml(path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML without keys that are given twice, of which the last alone would count."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"key {key.value!r} is given twice or is no name",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    # its own constructors of dates and numbers raise the rest
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not YAML: {_line(error)}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is not YAML: it is nested too deeply") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def read_command_line(arguments: list[str]) -> dict[str, list[Any]]:
    """`--lr 0.1 0.3 --nesterov` as values by option; an option without values is a switch."""
    values: dict[str, list[Any]] = {}
    name = None
    for argument in arguments:
        if argument.startswith("--"):
            spelled, equals, value = argument[2:].partition("=")
            name = spelled.replace("-", "_")
            if name in values:
                raise ValueError(f"--{spelled} is given twice: write all its values after one")
            values[name] = [value] if equals else []
        elif name is None:
            raise ValueError(f"expected an option that begins with --, got {argument!r}")
        else:
            values[name].append(argument)
    switched = [name for name, given in values.items() if not given]
    for name in switched:
        positive = name.removeprefix("no_")
        if positive != name and positive in values:
            raise ValueError(f"--{option(positive)} is given twice, as --{option(name)} too")
    return {
        name.removeprefix("no_") if not given else name: given or [not name.startswith("no_")]
        for name, given in values.items()
    }


def build(path: Path | None, arguments: list[str]) -> Grid:
    """The grid of a file, where options of the command line replace the file's; checked.

    Without either: five algorithms and three seeds on the default data. Raises ValueError or OSError.
    """
    content = {} if path is None else read_file(path)
    given = as_lists(read_command_line(arguments))
    try:
        grid = _grid(DEFAULT if path is None else content, given)
    except ValueError as error:
        raise error if path is None else ValueError(f"{path}: {error}") from error
    grid.check()
    # the command line may leave runs of a file out, for which some of its options were
    grid.check_used(as_lists(given) if path is not None and given else None)
    return grid


def _grid(content: dict[str, Any], given: Values) -> Grid:
    tables = {name: content[name] for name in TABLES if name in content}
    mine = {name: value for name, value in content.items() if name not in TABLES}
    left = [v for n, v in mine.items() if isinstance(v, list) and v and n not in given]
    # before every value is read
    check_number(math.prod(map(len, left)))
    options = as_lists(mine)
    overrides = tables.get("override", [])
    if not isinstance(overrides, list):
        raise ValueError(f"override must be a list of tables, got {reprlib.repr(overrides)}")
    return Grid(
        options={**options, **given},
        overrides=[_override(table, f"override[{i}]") for i, table in enumerate(overrides)],
        tune=_candidates(tables.get("tune", {}), "tune"),
        tuning=_candidates(tables.get("tuning", {}), "tuning"),
    )


def _candidates(table: Any, name: str) -> Values:
    """Options of runs that choose, which must not see the test set."""
    values = as_lists(table, f"{name}.")
    if any(value != VALIDATION for value in values.get("evaluate_on", [])):
        raise ValueError(f"{name}.evaluate_on must be {VALIDATION}: the test set chooses nothing")
    return values


def _override(table: Any, name: str) -> Override:
    if not isinstance(table, dict) or "when" not in table:
        raise ValueError(
            f"{name}: an override needs `when`, the options for which it holds, got {reprlib.repr(table)}"
        )
    rest = {n: value for n, value in table.items() if n not in ("when", "tune")}
    return Override(
        as_lists(table["when"], f"{name}.when."),
        as_lists(rest, f"{name}."),
        _candidates(table.get("tune", {}), f"{name}.tune"),
    )
