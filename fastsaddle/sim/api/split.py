"""Which samples each agent of a run has."""

from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastsaddle.sim.api import shown
from fastsaddle.sim.api.tables import table
from fastsaddle.sim.run import plots


class Split:
    """The training samples of each class at each agent.

    Args:
        name: what split the data.
        counts: `[agents, classes]` whole numbers.
        classes: their names.
    """

    def __init__(self, name: str, counts: np.ndarray, classes: tuple[str, ...]) -> None:
        self.name, self.counts, self.classes = name, counts, classes

    @property
    def table(self) -> Any:
        """A row for each agent, a column for each class: a pandas DataFrame, or rows where pandas is not installed."""
        rows = [dict(zip(self.classes, row, strict=True)) for row in self.counts.tolist()]
        return table(rows)

    def plot(self) -> Figure:
        """A heat map: a row for each agent, a column for each class."""
        return shown.displayed(plots.classes(self.counts, self.classes, self.name))

    def _repr_html_(self) -> str:
        most = max(1, int(self.counts.max()))
        heads = "".join(f"<th>{escape(name)}</th>" for name in self.classes)
        rows = "".join(
            f"<tr><th>{agent}</th>{''.join(_cell(n, most) for n in row)}</tr>"
            for agent, row in enumerate(self.counts.tolist())
        )
        title = f"<strong>{escape(self.name)}</strong>, training samples of each class"
        return f"<div>{title}<table><tr><th>agent</th>{heads}</tr>{rows}</table></div>"


def _cell(count: int, most: int) -> str:
    # the square root keeps small counts visible, as in the picture
    shade = 0.75 * (count / most) ** 0.5
    return f'<td style="background: rgba(59, 130, 196, {shade:.2f})">{count or ""}</td>'
