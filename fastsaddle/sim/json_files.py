"""JSON that is read: strict, and checked against the types that its reader expects.

Every fault is a ValueError of one line that names the file and the key.
"""

import json
import math
import reprlib
import types
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

# whole numbers that every reader can hold, seeds of 64 bits among them
LARGEST = 2**64


def read(path: Path) -> dict[str, Any]:
    """The object in a file.

    Raises FileNotFoundError, and ValueError for a damaged file and for one that holds no object.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} must be a file")
    return parse(path.read_bytes(), str(path))


def read_as(path: Path, kind: Any) -> dict[str, Any] | None:
    """The object in a file, checked against a TypedDict; None where there is no file."""
    if not path.exists():
        return None
    content = read(path)
    check_as(content, kind, str(path))
    return content


def parse(text: bytes, where: str, place: str = "") -> dict[str, Any]:
    """The object that `text` writes; errors call it `where`, and `place` inside of it.

    Raises ValueError for what is not JSON, for keys that are given twice, and for numbers and texts that no file of a
    run can hold: NaN, infinities, NUL, halves of characters.
    """
    try:
        content = json.loads(text.decode(), object_pairs_hook=_once)
        for value in _leaves(content):
            _check_plain(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is damaged: {place}{error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{where}{place and f': {place[:-2]}'} must hold values by name, got {type(content).__name__}"
        )
    return content


def check(
    content: Mapping[str, Any],
    kinds: Mapping[str, Any],
    needed: Collection[str],
    where: str,
    closed: bool = False,
) -> None:
    """Raise ValueError, which begins with `where`, unless each value is of its type and all `needed` are there.

    Args:
        content: an object as `parse` gives it.
        kinds: type hints by key: plain types, Literal, unions, lists, dictionaries and TypedDicts. A Path is text.
        needed: keys that must be there.
        where: what the errors name, mostly a file.
        closed: refuse keys that `kinds` does not know.
    """
    if missing := [name for name in needed if name not in content]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    if closed and (unknown := [name for name in content if name not in kinds]):
        raise ValueError(
            f"{where} holds {', '.join(map(reprlib.repr, unknown))}, which this version does not know"
        )
    for name, kind in kinds.items():
        if name in content and (fault := _fault(content[name], kind)):
            raise ValueError(f"{where}: {name}{fault}")


def check_as(content: dict[str, Any], kind: Any, where: str) -> None:
    """`check` against a TypedDict; keys that it does not name are left alone."""
    check(content, get_type_hints(kind), sorted(kind.__required_keys__), where)


def _fault(value: Any, kind: Any) -> str:
    """What is wrong with a value, behind its name; empty where it is of its kind."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        return _object_fault(value, kind)
    if origin is list and isinstance(value, list):
        faults = (f"[{i}]{f}" for i, v in enumerate(value) if (f := _fault(v, arguments[0])))
        return next(faults, "")
    if origin is dict and isinstance(value, dict):
        faults = (
            f".{k if k.isprintable() else ascii(k)}{f}"
            for k, v in value.items()
            if (f := _fault(v, arguments[1]))
        )
        return next(faults, "")
    if _is_of(value, kind, origin, arguments):
        return ""
    return f" must be {_say(kind)}, got {reprlib.repr(value)}"


def _object_fault(value: Any, kind: Any) -> str:
    if not isinstance(value, dict):
        return f" must hold values by name, got {reprlib.repr(value)}"
    if missing := [name for name in sorted(kind.__required_keys__) if name not in value]:
        return f" lacks {', '.join(missing)}"
    hints = get_type_hints(kind).items()
    return next((f".{n}{f}" for n, k in hints if n in value and (f := _fault(value[n], k))), "")


def _is_of(value: Any, kind: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    if origin is Literal:
        return value in arguments
    if origin in (Union, types.UnionType):
        return any(not _fault(value, one) for one in arguments)
    if kind is types.NoneType:
        return value is None
    if kind is Any:
        return True
    # to Python a bool is an int, and a whole float is written as an int by some
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, str if kind is Path else origin or kind)


def _say(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_say, arguments))
    if kind is types.NoneType:
        return "null"
    return {list: "a list", dict: "values by name", Path: "str"}.get(origin or kind, kind.__name__)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{reprlib.repr(name)} is given twice")
        found[name] = value
    return found


def _leaves(value: Any) -> Iterator[Any]:
    """All keys, texts and numbers."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield name
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    else:
        yield value


def _check_plain(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{ascii(value)[:40]} is no text")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{reprlib.repr(value)} is larger than 2^64")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number of JSON")
