"""Where a committed table lies, and the grid that makes it."""

from dataclasses import dataclass
from pathlib import Path

import fastsaddle

FOLDER = Path("benchmarks", "reproduction")


@dataclass(frozen=True)
class Source:
    """A grid file, and beside it a folder of its name with what was committed."""

    grid: Path

    @property
    def name(self) -> str:
        """What it is called."""
        return self.grid.stem

    @property
    def table(self) -> Path:
        """Means and deviations, as `compare` writes them."""
        return self.grid.with_suffix("") / "table.csv"

    @property
    def hashes(self) -> Path:
        """Digests of the data and of all splits."""
        return self.grid.with_suffix("") / "hashes.json"


def find(text: str) -> Source:
    """The source of a name, which a checkout has, or of the path of a grid file.

    Raises ValueError where there is none.
    """
    if text.endswith(".toml"):
        found = Source(Path(text))
    else:
        folder = Path(fastsaddle.__file__).parents[1] / FOLDER
        names = sorted(p.stem for p in folder.glob("*.toml") if Source(p).table.exists())
        if text not in names:
            ways = (
                f"one of {', '.join(names)}"
                if names
                else "the path of a grid file (names need a checkout)"
            )
            raise ValueError(f"NAME must be {ways}, got {text!r}")
        found = Source(folder / f"{text}.toml")
    for path in (found.grid, found.table):
        if not path.is_file():
            raise ValueError(f"{text}: there is no {path}")
    return found
