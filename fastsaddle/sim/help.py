"""The texts below the fields of a dataclass of options, as the command line's help shows them."""

import ast
import inspect
import itertools
import textwrap
from dataclasses import fields
from types import MappingProxyType
from typing import Any, TypeVar

C = TypeVar("C", bound=type[Any])


def with_help(cls: C) -> C:
    """The dataclass, whose fields hold the text below each as one paragraph.

    tyro looks for it there first; from the source it would keep the line breaks and wrap the pieces once more.
    """
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for field, text in itertools.pairwise(tree.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            texts[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    for one in fields(cls):
        one.metadata = MappingProxyType({**one.metadata, "help": texts[one.name]})
    return cls
