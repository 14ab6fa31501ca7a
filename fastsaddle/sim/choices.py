"""What an option names: a built-in piece, which is a file of a folder, or the user's own by import path.

`mlp`, `mlp:32`, `my_net.py:Net`, `my_net.py:Net:32` and `package.module:Net` are such values. A built-in one is the
function of the same name in its own file; the folder is the list, and only the chosen file is imported.
"""

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args

OWN = re.compile(r"(?P<source>[^:]+\.py|\w+(?:\.\w+)+):(?P<name>\w+)(?::(?P<rest>.*))?")

# contents of a choice: a file of its own, named without a colon
DATA_FILES = (".txt", ".npy")
# options that may name a file of the user's
OPTIONS = (
    *("algorithm", "gradient", "dataset", "model", "topology", "partition"),
    *("feature_skew", "compressor"),
)

# folders of built-in choices -> where they lie
PLACES = {
    "networks": "networks",
    "datasets": "data.datasets",
    "partitions": "data.partitions",
    "feature_skews": "data.feature_skews",
    "engines": "engines",
    "trackers": "trackers",
}
# folders of which an option names one -> the option
WHAT = {
    "networks": "model",
    "datasets": "dataset",
    "partitions": "partition",
    "feature_skews": "feature_skew",
}


def option(name: str) -> str:
    """A field's name as the command line spells it."""
    return name.replace("_", "-")


def boolean(text: str) -> bool:
    """true or false, as options spell them."""
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


KINDS: dict[Any, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "bool": boolean}
KINDS |= {int: int, float: float, str: str, bool: boolean}


@dataclass(frozen=True)
class Choice:
    """A callable and the arguments after its colons.

    Called with offered values by name, it takes those that its signature names; the parameters left over take the
    arguments, those written `name=value` by name and the others in order, converted as annotated to int, float, bool,
    None or str.
    """

    text: str
    # or a class, with attributes of its own
    function: Any
    arguments: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """The parameters of the callable."""
        return tuple(inspect.signature(self.function).parameters)

    def __call__(self, **offered: Any) -> Any:
        """Raises ValueError for an argument too many, one of the wrong type, or a parameter nobody fills."""
        parameters = inspect.signature(self.function).parameters
        values = {name: offered[name] for name in parameters if name in offered}
        left = [
            p
            for p in parameters.values()
            if p.name not in offered and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        own = {p.name: p for p in left}
        written = [a.split("=", 1) for a in self.arguments if a.split("=")[0] in own and "=" in a]
        check_once((name for name, _ in written), self.text)
        named = dict(written)
        for name, text in named.items():
            values[name] = convert(self.text, own[name], text)
        left = [p for p in left if p.name not in named]
        ordered = [a for a in self.arguments if a.split("=")[0] not in named]
        if len(ordered) > len(left):
            takes = ", ".join(p.name for p in left) or "none"
            raise ValueError(
                f"{self.text} has too many arguments after the colon, it takes {takes}"
            )
        for parameter, text in zip(left, ordered, strict=False):
            values[parameter.name] = convert(self.text, parameter, text)
        for parameter in left[len(ordered) :]:
            if parameter.default is parameter.empty:
                raise ValueError(
                    f"{self.text} needs a value for {parameter.name}: write {self.text}:VALUE, "
                    f"or give it a default; offered by name: {', '.join(sorted(offered))}"
                )
        return self.function(**values)


def find(text: str, folder: str) -> Choice:
    """The choice that `text` names, built-in ones from their folder in `fastsaddle/sim/`.

    Raises ValueError where there is none such, FileNotFoundError for a file that is not there.
    """
    own = own_choice(text)
    if own is not None:
        return own
    name, *arguments = spelled(text, names(folder)).split(":")
    if name not in names(folder):
        raise ValueError(unknown(WHAT[folder], text, names(folder)))
    module = name.replace("-", "_")
    found = importlib.import_module(f"fastsaddle.sim.{PLACES[folder]}.{module}")
    return Choice(text, getattr(found, module), tuple(arguments))


@cache
def names(folder: str) -> tuple[str, ...]:
    """The built-in choices of a folder, as options spell them."""
    path = str(Path(__file__).parent / PLACES[folder].replace(".", "/"))
    files = sorted(m.name for m in pkgutil.iter_modules([path]))
    return tuple(name.replace("_", "-") for name in files if not name.startswith("_"))


def unknown(what: str, text: str, known: tuple[str, ...]) -> str:
    """The error for a name that nothing has."""
    return (
        f"{what} must be one of {', '.join(known)}, or your own as file.py:Name "
        f"or package.module:Name, got {text!r}{meant(text, known)}"
    )


def meant(text: str, known: Iterable[str]) -> str:
    """A question for the one of the known names that a wrong one is near to; empty where it is near to none."""
    near = difflib.get_close_matches(text.partition(":")[0].lower(), list(known), 1)
    return f", did you mean {near[0]}?" if near else ""


def spelled(text: str, known: Iterable[str]) -> str:
    """A choice with the known name that its own is but for capitals, hyphens and underscores; any other as it is."""
    name, colon, rest = text.partition(":")
    found = {_letters(one): one for one in known}.get(_letters(name))
    return text if found is None else found + colon + rest


def _letters(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def check_once(names: Iterable[str], where: str) -> None:
    """Raise ValueError for the first name that comes twice: one of its values would count for nothing."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{where}: {name} is given twice")
        seen.add(name)


def own_choice(text: str) -> Choice | None:
    """What an import path names; None where `text` is no import path.

    Raises ValueError where the file or module has no such name, FileNotFoundError where it does not exist. Errors
    of the user's code are not caught.
    """
    match = OWN.fullmatch(text)
    if match is None:
        return None
    source, name = match["source"], match["name"]
    is_file = source.endswith(".py")
    module = _load_file(Path(source).resolve()) if is_file else _load_module(source)
    function = getattr(module, name, None)
    if not callable(function):
        offered = ", ".join(n for n, v in vars(module).items() if callable(v) and n[0] != "_")
        raise ValueError(f"{source} has no callable {name!r}; it has {offered or 'none'}")
    rest = match["rest"]
    return Choice(text, function, tuple(rest.split(":")) if rest else ())


def absolute(text: str) -> str:
    """The same choice with the whole path of the user's file, readable from any directory."""
    source = source_of(text) or ""
    if not source.endswith((".py", *DATA_FILES)):
        return text
    return str(Path(source).resolve()) + text[len(source) :]


def source_of(text: str) -> str | None:
    """The file or module that an own choice comes from; None where `text` is no own choice."""
    if is_data_file(text):
        return text
    match = OWN.fullmatch(text)
    return None if match is None else match["source"]


def is_data_file(text: str) -> bool:
    """Whether a choice is the content of a file, such as edges.txt, and not code."""
    return text.endswith(DATA_FILES)


@cache
def _load_file(path: Path) -> Any:
    """The module of a file, executed once: options are looked up many times."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    name = f"fastsaddle_own_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    # classes find their module by its name, as dataclasses need to
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


def _load_module(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        # a command's path starts with the folder of its script, not with the user's
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"there is no module {name} (looked in {here} too): {error}") from error


def convert(text: str, parameter: inspect.Parameter, value: str) -> int | float | str | None:
    # the types of `int | None`, or the one there is
    offered = get_args(parameter.annotation) or (parameter.annotation,)
    if value.lower() == "none" and NoneType in offered:
        return None
    kind = next((KINDS[o] for o in offered if o in KINDS), str)
    try:
        return kind(value)
    except ValueError as error:
        rule = f"{text}: {parameter.name} must be {kind.__name__}, got {value!r}"
        raise ValueError(rule) from error
