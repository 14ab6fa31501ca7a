"""How far a table that was made anew is from the one that was committed, and whether that is too far."""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# measure -> the least that a mean may be off by; 0 for what is counted and must be equal
LEAST = {
    **{"accuracy": 0.003, "mean_accuracy": 0.003, "worst_accuracy": 0.01},
    **{"bytes": 0.0, "gradient_evaluations": 0.0},
}
COUNTS = ("runs", "diverged")
# and the standard errors of a difference of two means
ERRORS = 3.0


@dataclass(frozen=True)
class Deviation:
    """A measure of a row: what was committed, what was found, and what they may differ by."""

    row: str
    measure: str
    committed: float
    found: float
    allowed: float

    @property
    def is_within(self) -> bool:
        """Whether the difference is one that other machines and versions may have."""
        return abs(self.found - self.committed) <= self.allowed


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table.csv.

    Raises:
        ValueError: it has no rows, lacks what is compared, or holds what is no number there.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is no table: {error}") from error
    if not rows:
        raise ValueError(f"{path} is no table: it has no rows")
    for number, row in enumerate(rows, 2):
        _check(row, f"{path}, line {number}")
    return rows


def _check(row: Mapping[str, str | None], where: str) -> None:
    for name in (*COUNTS, "accuracy"):
        if row.get(name) is None:
            raise ValueError(f"{where}: there is no {name}")
    for name in (*COUNTS, *LEAST, *(f"{measure}_deviation" for measure in LEAST)):
        # a mean is empty where all runs diverged, and a table may have fewer measures
        text = row.get(name) or ("" if name in COUNTS else "0")
        if not _is_number(text):
            raise ValueError(f"{where}: {name} must be a number, got {text!r}")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def between(
    committed: list[dict[str, str]], found: list[dict[str, Any]], options: tuple[str, ...]
) -> list[Deviation]:
    """Each measure of each row, in the committed table's order.

    Args:
        committed: its rows.
        found: rows of now.
        options: the columns that tell rows apart.

    Raises:
        ValueError: a row that only one of the tables has, or one whose runs diverged otherwise.
    """
    now = {_key(row, options): {n: _text(v) for n, v in row.items()} for row in found}
    known = {_key(row, options): row for row in committed}
    if now.keys() != known.keys():
        other = sorted(map(str, now.keys() ^ known.keys()))
        raise ValueError(f"the tables have other rows: {', '.join(other[:3])}")
    names = {key: _name(dict(zip(options, key, strict=True))) for key in known}
    return [d for key, row in known.items() for d in _of_row(names[key], row, now[key])]


def _of_row(
    name: str, committed: Mapping[str, str], found: Mapping[str, str]
) -> Iterator[Deviation]:
    for what in COUNTS:
        yield Deviation(name, what, float(committed[what]), float(found[what]), 0.0)
    for measure, least in LEAST.items():
        before, now = committed.get(measure, ""), found.get(measure, "")
        if before and now:
            spread = [float(row.get(f"{measure}_deviation") or 0) for row in (committed, found)]
            error = math.hypot(*spread) / math.sqrt(float(committed["runs"]))
            allowed = max(least, ERRORS * error) if least else 0.0
            yield Deviation(name, measure, float(before), float(now), allowed)


def _name(options: dict[str, str]) -> str:
    """A row's options in a few words: algorithms speak for themselves."""
    said = (
        v if n == "algorithm" else f"{n.replace('_', ' ')} {v}" for n, v in options.items() if v
    )
    return ", ".join(said) or "all runs"


def _key(row: Mapping[str, Any], options: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_text(row.get(name, "")) for name in options)


def _text(value: Any) -> str:
    return "" if value is None else str(value)
