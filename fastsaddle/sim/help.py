"""The texts below the fields of a dataclass of options, as the command line's help shows them."""

import ast
import inspect
import itertools
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import field, fields, make_dataclass
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

C = TypeVar("C", bound=type[Any])


def with_help(cls: C) -> C:
    """The dataclass, whose fields hold the text below each: the whole as `help`, its first paragraph as `brief`.

    tyro looks for `help` first; from the source it would keep the line breaks and wrap the pieces once more.
    """
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for named, text in itertools.pairwise(tree.body):
        if isinstance(named, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(named.target, ast.Name)
            texts[named.target.id] = inspect.cleandoc(ast.literal_eval(text.value))
    for one in fields(cls):
        whole, brief = texts[one.name], texts[one.name].split("\n\n")[0]
        told = {"help": " ".join(whole.split()), "brief": " ".join(brief.split())}
        one.metadata = MappingProxyType({**one.metadata, **told})
    return cls


def in_panels(
    cls: type[Any], panels: Mapping[str, tuple[str, ...]], text: Callable[[str], str]
) -> type[Any]:
    """A dataclass with some of the options of another, in panels, for its help alone.

    Args:
        cls: the dataclass of all options.
        panels: the options of each panel, by the panel's name; a panel without any is left out.
        text: what is said of an option.
    """
    import tyro

    kinds, defaults = get_type_hints(cls), {one.name: one.default for one in fields(cls)}
    parts: list[Any] = []
    for panel, names in panels.items():
        if names:
            options = [
                (n, kinds[n], field(default=defaults[n], metadata={"help": text(n)})) for n in names
            ]
            part = make_dataclass(panel, options)
            kind = tyro.conf.OmitArgPrefixes[part]  # type: ignore[valid-type]
            parts.append((panel, kind, field(default_factory=part)))
    found = make_dataclass("Options", parts)
    return found
