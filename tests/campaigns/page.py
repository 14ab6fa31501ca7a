"""The table of what campaigns came to, in docs/reliability.md."""

import datetime
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns.campaign import Counts

BEGIN, END = "<!-- campaigns: begin -->\n", "<!-- campaigns: end -->"
TITLES = ("campaign", "tried", "of these", "losses", "hangs", "tracebacks", "time", "how")
# numbers stand to the right
RULE = "| --- | ---: | --- | ---: | ---: | ---: | ---: | --- |"


@dataclass(frozen=True)
class Row:
    """A line of the table: a campaign's cells as text."""

    name: str
    cells: tuple[str, ...]

    @classmethod
    def of(cls, name: str, unit: str, counts: Counts, seed: int, seconds: float) -> "Row":
        ended = ", ".join(f"{number:,} {what}" for what, number in counts.ended.most_common())
        found = (len(counts.losses), len(counts.hangs), len(counts.tracebacks))
        today = datetime.date.today().isoformat()
        how = f"`--only {name} --seed {seed}`, {today}, {versions()}"
        cells = (f"{counts.tried:,} {unit}", ended, *map(str, found), f"{seconds:.0f} s", how)
        return cls(name, cells)

    @property
    def told(self) -> str:
        """The line for a terminal."""
        named = zip(TITLES[1:], self.cells, strict=True)
        return "; ".join(f"{title} {cell}" if title != "how" else cell for title, cell in named)


def versions() -> str:
    import torch

    import fastsaddle

    return (
        f"fastsaddle {fastsaddle.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )


def progress(counts: Counts, count: int, unit: str, seconds: float) -> str:
    return (
        f"{counts.tried:,} of {count:,} {unit}, {len(counts.losses)} losses, {len(counts.hangs)} hangs, "
        f"{len(counts.tracebacks)} tracebacks, {seconds:.0f} s"
    )


def renew(page: Path, row: Row) -> None:
    """Put a campaign's line in the place of its earlier one, or at the table's end.

    Raises ValueError for a page without the two marks.
    """
    text = page.read_text()
    match = re.search(f"{BEGIN}(.*?){END}", text, flags=re.DOTALL)
    if match is None:
        raise ValueError(f"{page} has no {BEGIN.strip()} and {END}")
    lines = {line.split("|")[1].strip(): line for line in match[1].splitlines()[2:] if line}
    lines[row.name] = f"| {' | '.join((row.name, *row.cells))} |"
    table = "\n".join([f"| {' | '.join(TITLES)} |", RULE, *lines.values()])
    page.write_text(f"{text[: match.start()]}{BEGIN}{table}\n{END}{text[match.end() :]}")
