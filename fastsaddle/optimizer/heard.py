"""States of agents elsewhere that those here hear: rows behind the own ones, kept from step to step and never saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.nn import Parameter


class Heard:
    """What an optimizer holds of other processes' states, laid out like its own and followed with them.

    Their owners save them. Where states were loaded, owners send theirs once, before the next step's first exchange.

    Attributes:
        buffers: by name, `[agents here + agents heard, stride]`: the first rows are those of `Optimizer.flat_state`.
        is_old: whether states were loaded since they were taken from their owners.
    """

    def __init__(self) -> None:
        self.buffers: dict[str, torch.Tensor] = {}
        self.is_old = False
        # of each parameter by state: the own part that they belong to, and theirs
        self._parts: dict[torch.Tensor, dict[str, tuple[Any, torch.Tensor]]] = {}

    def fill(
        self, p: Parameter, name: str, held: Any, own: torch.Tensor, part: torch.Tensor
    ) -> None:
        """Bring a parameter's rows to `part` of a new buffer, where `own` is that of the agents here.

        Args:
            held: what was the parameter's state until now; None where it begins at zero, as everybody's does.
        """
        former, rows = self._parts.get(p, {}).get(name, (None, part))
        if held is None:
            part.zero_()
        elif held is former:
            part.copy_(rows)
        else:
            self.is_old = True
        self._parts.setdefault(p, {})[name] = own, part

    def set_aside(self, p: Parameter, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """A parameter's states have moved to memory of their own: so do those of the agents heard."""
        for name, (own, part) in self._parts.get(p, {}).items():
            if own is before.get(name):
                self._parts[p][name] = now.get(name), part.clone()

    def forget(self, gone: Iterable[torch.Tensor]) -> None:
        """Drop what belongs to parameters that are gone."""
        for p in gone:
            self._parts.pop(p, None)
