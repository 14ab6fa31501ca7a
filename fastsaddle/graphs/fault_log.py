"""What fell in which round, as a text of one JSON object a line: what a run did, and what a later one may replay."""

import json
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

Record = Mapping[str, Any]
Log = str | Path | Sequence[Record]


class Fallen(NamedTuple):
    """What was down in one round.

    Attributes:
        links: pairs of agents whose link fell, ascending; those of agents that were down are not among them unless they
            fell, too.
        agents: who was down, ascending.
    """

    links: tuple[tuple[int, int], ...]
    agents: tuple[int, ...]


def read(log: Log) -> dict[int, Fallen]:
    """What a log says, by round; a round that it does not name had no faults.

    Args:
        log: the path of a file such as a run's faults.jsonl, or its records: `{"round": 3, "links": [[0, 1]], "agents":
            [5]}` each, of which `links` and `agents` may be missing. A file's last line may be torn by a crash.

    Raises:
        ValueError: something that is no such record, or a round that comes twice; the line or place is named.
        FileNotFoundError: there is no such file.
    """
    found: dict[int, Fallen] = {}
    for place, record in _records(log):
        round, fallen = _checked(place, record)
        if round in found:
            raise ValueError(f"{place}: round {round} comes twice")
        found[round] = fallen
    return found


def text(rounds: Mapping[int, Fallen]) -> str:
    """Records as lines, ascending; rounds in which nothing fell have none."""
    lines = (
        json.dumps({"round": t, "links": fallen.links, "agents": fallen.agents})
        for t, fallen in sorted(rounds.items())
        if any(fallen)
    )
    return "".join(line + "\n" for line in lines)


def _records(log: Log) -> Iterable[tuple[str, Any]]:
    """Records with where they stand."""
    if not isinstance(log, str | Path):
        return [(f"log[{k}]", record) for k, record in enumerate(log)]
    *whole, last = Path(log).read_bytes().split(b"\n")
    found = []
    for number, line in enumerate([*whole, last], 1):
        place = f"{log}: line {number}"
        try:
            found.append((place, json.loads(line)))
        except (ValueError, RecursionError) as error:
            # the last one has no end
            if number <= len(whole):
                raise ValueError(f"{place}: {error}") from error
    return found


def _checked(place: str, record: Any) -> tuple[int, Fallen]:
    if not isinstance(record, Mapping):
        raise ValueError(
            f'{place} must be such as {{"round": 3, "links": [[0, 1]]}}, got {record!r}'
        )
    round: Any = record.get("round")
    links = _listed(place, record, "links")
    agents = _listed(place, record, "agents")
    if not _is_number(round):
        raise ValueError(f"{place}: round must be a whole number >= 0, got {round!r}")
    if not all(_is_list(pair) and len(pair) == 2 and all(map(_is_number, pair)) for pair in links):
        raise ValueError(f"{place}: links must be pairs of agents, got {links!r}")
    if not all(map(_is_number, agents)):
        raise ValueError(f"{place}: agents must be whole numbers >= 0, got {agents!r}")
    pairs = sorted({(int(i), int(j)) for i, j in links})
    return int(round), Fallen(tuple(pairs), tuple(sorted({int(i) for i in agents})))


def _listed(place: str, record: Record, name: str) -> Sequence[Any]:
    found = record.get(name, ())
    if not _is_list(found):
        raise ValueError(f"{place}: {name} must be a list, got {found!r}")
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_number(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0
