"""Which options of the runs a reader has to know: those that differ, those that were changed, those that act."""

from collections.abc import Iterable
from typing import Any

from fastsaddle.sim.config import DEFAULTS, option
from fastsaddle.sim.report.groups import COMPARED, RunGroup
from fastsaddle.sim.report.tables import Table, say
from fastsaddle.sim.uses import obstacle

Listed = list[tuple[str, str]]


def differing(groups: list[RunGroup]) -> Table:
    """The options that are not the same in all groups, a line a group; empty for one group."""
    every = [g.options for g in groups]
    names = [n for n in every[0] if any(o[n] != every[0][n] for o in every)]
    lines = [[g.label, *(say(g.options[n]) for n in names)] for g in groups]
    return Table(["group", *map(option, names)], lines if names else [], 1 + len(names))


def common(groups: list[RunGroup]) -> tuple[Listed, Listed, Listed]:
    """The options that are the same in all groups: those changed, those that act as they are by default, the rest."""
    shared = [n for n in COMPARED if all(g.options[n] == groups[0].options[n] for g in groups)]
    config = groups[0].runs[0].config
    changed = {n for n in shared if getattr(config, n) != DEFAULTS[n]}
    acting = {n for n in shared if any(_acts(g, n) for g in groups)}
    return (
        _listed(groups[0].options, (n for n in shared if n in changed & acting)),
        _listed(groups[0].options, (n for n in shared if n in acting - changed)),
        _listed(groups[0].options, (n for n in shared if n not in acting)),
    )


def _acts(group: RunGroup, name: str) -> bool:
    """Whether an option changes these runs; one of an own choice whose code is gone may."""
    try:
        return obstacle(group.runs[0].config, name) is None
    # whatever the user's code raises: finished runs are shown without it
    except Exception:
        return True


def _listed(options: dict[str, Any], names: Iterable[str]) -> Listed:
    return [(option(name), say(options[name])) for name in names]
