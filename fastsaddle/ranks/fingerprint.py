"""One collective in which all ranks compare what must be equal before they work together."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Gather = Callable[[bytes], list[bytes]]
# characters of a value in a message
SHOWN = 160


@dataclass(frozen=True)
class Agreement:
    """What all ranks know of each other once they have compared.

    Attributes:
        key: drawn by rank 0, like no other of any group, restart or optimizer.
        hosts: name of each rank's machine.
    """

    key: str = ""
    hosts: tuple[str, ...] = ()


def agree(gather: Gather, facts: Mapping[str, str]) -> Agreement:
    """Compare facts over all ranks, all of which must call this, or `refuse`.

    Args:
        gather: from what this rank says to what all ranks do, in their order.
        facts: what must be equal everywhere, by name; the first name that differs is told.

    Raises:
        ValueError: on every rank: what differs, where, and both values; or which rank has refused, and why.
        PeerError: a rank did not come.
    """
    found = _gathered(gather, {"facts": dict(facts)})
    for rank, told in enumerate(found):
        if "refused" in told:
            raise ValueError(f"rank {rank} cannot take part: {told['refused']}")
    everybody = [told["facts"] for told in found]
    names = dict.fromkeys(name for facts_there in everybody for name in facts_there)
    for name in names:
        values = [facts_there.get(name, "nothing") for facts_there in everybody]
        if len({*values}) > 1:
            raise ValueError(f"{name} must be equal on all ranks, got {_by_rank(values)}")
    return Agreement(found[0]["key"], tuple(told["host"] for told in found))


def refuse(gather: Gather, error: BaseException) -> None:
    """Tell all others, who wait in `agree` or `refuse`, that this rank cannot take part.

    Raises:
        PeerError: a rank did not come.
    """
    _gathered(gather, {"refused": f"{type(error).__name__}: {error}"})


def _gathered(gather: Gather, told: dict[str, object]) -> list[dict[str, Any]]:
    told |= {"key": secrets.token_hex(8), "host": socket.gethostname()}
    return [json.loads(value) for value in gather(json.dumps(told).encode())]


def _by_rank(values: Sequence[str]) -> str:
    """Values with the ranks that have them, such as "0.1 on ranks 0, 2 and 0.2 on rank 1"."""
    by_value: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        by_value.setdefault(value, []).append(rank)
    parts = []
    for value, ranks in by_value.items():
        shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
        named = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
        parts.append(f"{shown} on {named}")
    return " and ".join(parts)
