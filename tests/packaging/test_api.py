"""Every public name is on one page of docs/api, its docstring is complete, and its examples run."""

import ast
import doctest
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import fastsaddle as fs

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Example):\n((?:    .*\n|\n)*)", re.M)
ENTRY = re.compile(r"^    ([\w*]+(?:, [\w*]+)*):", re.M)
# what shows where a method of the field comes from: arXiv:1234.56789 or a year
SOURCE = re.compile(r"arXiv:\d{4}\.\d{4,5}|\b(?:19|20)\d\d\b")


def _extension(name: str) -> ModuleType:
    spec = spec_from_file_location(name, ROOT / "docs" / "_ext" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = _extension("public_names")
PUBLIC: dict[str, Any] = NAMES.documented()
CLASSES = {name: obj for name, obj in PUBLIC.items() if inspect.isclass(obj)}
FUNCTIONS = {name: obj for name, obj in PUBLIC.items() if inspect.isfunction(obj)}


def listed(page: Path) -> list[str]:
    """The names that a page documents."""
    return re.findall(r"^   (fastsaddle\.[\w.]+)$", page.read_text(), re.M)


def plain(member: Any) -> Any:
    """The function that a method, a class method or a property is made of; None where there is none."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, cached_property):
        return member.func
    if isinstance(member, classmethod | staticmethod):
        return member.__func__
    return member if inspect.isfunction(member) else None


def is_property(member: Any) -> bool:
    return isinstance(member, property | cached_property)


def bases(cls: type) -> list[type]:
    """Classes whose documentation holds for members that `cls` overrides."""
    contracts = [fs.ranks.Transport] if cls.__name__.endswith("Transport") else []
    ours = [base for base in cls.__mro__[1:] if base.__module__.startswith("fastsaddle")]
    return [*ours, *contracts, torch.optim.Optimizer]


def own_members(cls: type) -> dict[str, Any]:
    """Functions and properties that a class defines, and that no documented one of a base stands for."""
    found = {}
    for name, member in vars(cls).items():
        function = plain(member)
        is_public = not name.startswith("_") or name == "__call__"
        if function is None or not is_public:
            continue
        inherited = any(name in vars(base) for base in bases(cls))
        if inspect.getdoc(function) is None or function.__doc__ is None:
            if inherited or any(name in named(base, "Attributes") for base in (cls, *bases(cls))):
                continue
        found[name] = member
    return found


def sections(doc: str) -> dict[str, str]:
    return dict(SECTION.findall(inspect.cleandoc(doc) + "\n"))


def named(obj: Any, section: str) -> set[str]:
    """What a section of a docstring describes."""
    entries = ENTRY.findall(sections(obj.__doc__ or "").get(section, ""))
    return {name.strip("*") for names in entries for name in names.split(", ")}


def parameters(function: Callable[..., Any]) -> set[str]:
    return {name for name in inspect.signature(function).parameters if name not in ("self", "cls")}


def raised(function: Any) -> set[str]:
    """Errors that a function raises itself, and by a check that it calls."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):
        return set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func).rpartition(".")[2])
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            if called.rpartition(".")[2].startswith(("check_", "refuse_other")):
                found.add("ValueError")
    return found - {"NotImplementedError"}


def undescribed(obj: Any, function: Any, kind: str) -> Iterator[str]:
    """What a docstring leaves out of what a function takes, raises and returns."""
    doc = obj.__doc__
    if not doc or not doc.strip():
        yield "no docstring"
        return
    told = sections(doc)
    known = named(obj, "Args") | (named(obj, "Attributes") if kind == "class" else set())
    if missing := sorted(parameters(function) - known):
        yield f"Args without {', '.join(missing)}"
    if kind != "property":
        for error in sorted(raised(function)):
            if error not in told.get("Raises", ""):
                yield f"Raises without {error}"
    if kind == "function":
        returned = str(inspect.signature(function).return_annotation)
        if re.match(r"'?tuple\[", returned) and "Returns" not in told:
            yield "a tuple without Returns"


def initializer(cls: type) -> Any:
    made = vars(cls).get("__init__")
    return made if inspect.isfunction(made) else None


def constructor_errors(cls: type) -> set[str]:
    made = vars(cls)
    return raised(made.get("__post_init__") or made.get("__init__"))


def problems(name: str, obj: Any) -> Iterator[str]:
    if inspect.isfunction(obj):
        yield from (f"{name}: {what}" for what in undescribed(obj, obj, "function"))
    if not inspect.isclass(obj):
        return
    own = obj.__doc__ if "__doc__" in vars(obj) else None
    if not own:
        yield f"{name}: no docstring"
        return
    init = vars(obj).get("__init__")
    if inspect.isfunction(init) and init.__module__.startswith("fastsaddle") or hasattr(obj, "__dataclass_fields__"):
        known = named(obj, "Args") | named(obj, "Attributes")
        for base in bases(obj):
            if not inspect.isfunction(init) or "__init__" not in vars(obj):
                known |= named(base, "Args") | named(base, "Attributes")
        if missing := sorted(parameters(obj.__init__) - known):
            yield f"{name}: Args without {', '.join(missing)}"
    errors = constructor_errors(obj)
    for error in sorted(errors):
        if error not in sections(own).get("Raises", ""):
            yield f"{name}: Raises without {error}"
    for member, value in own_members(obj).items():
        kind = "property" if is_property(value) else "function"
        inner = [f"{name}.{member}: {what}" for what in undescribed(plain(value), plain(value), kind)]
        yield from inner
