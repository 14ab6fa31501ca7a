"""Where a grid comes from: a TOML or YAML file, the command line, or both."""

import sys
from pathlib import Path
from typing import Any

from fastsaddle.sim.comparison.grid import Grid, Override, as_lists

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT = {"algorithm": ["dsgd", "dsgdm", "qgm", "dsaddle", "qsaddle"], "seed": [0, 1, 2]}
TABLES = ("tune", "tuning", "override")


def read_file(path: Path) -> dict[str, Any]:
    """The content of a grid file. Raises ValueError for one that cannot be read, OSError for none."""
    text = path.read_text()
    if path.suffix in (".yaml", ".yml"):
        import yaml

        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from error
    elif path.suffix == ".toml":
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path} is not TOML: {error}") from error
    else:
        raise ValueError(f"a grid file must end in .toml, .yaml or .yml, got {path}")
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold options by name, got {type(content).__name__}")
    return content


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
    return {
        name.removeprefix("no_") if not given else name: given or [not name.startswith("no_")]
        for name, given in values.items()
    }


def build(path: Path | None, arguments: list[str]) -> Grid:
    """The grid of a file, where options of the command line replace the file's; checked.

    Without either: five algorithms and three seeds on the default data. Raises ValueError or OSError.
    """
    content = {} if path is None else read_file(path)
    given = read_command_line(arguments)
    tables = {name: content.pop(name) for name in TABLES if name in content}
    options = as_lists({**(DEFAULT if path is None else {}), **content, **given})
    grid = Grid(
        options=options,
        overrides=[_override(table) for table in tables.get("override", [])],
        tune=as_lists(tables.get("tune", {})),
        tuning=as_lists(tables.get("tuning", {})),
    )
    grid.check()
    return grid


def _override(table: dict[str, Any]) -> Override:
    if not isinstance(table, dict) or "when" not in table:
        raise ValueError(f"an override needs `when`, the options for which it holds, got {table}")
    rest = {name: value for name, value in table.items() if name not in ("when", "tune")}
    return Override(as_lists(table["when"]), as_lists(rest), as_lists(table.get("tune", {})))
