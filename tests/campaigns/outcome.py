"""What a campaign came to: a line for the terminal, and a row of a JSON file, of which pages are made."""

import datetime
import json
import platform
from pathlib import Path
from typing import Any

from tests.campaigns.campaign import Counts


def row(name: str, unit: str, counts: Counts, seed: int, seconds: float) -> dict[str, Any]:
    return {
        "campaign": name,
        "tried": counts.tried,
        "unit": unit,
        "ended": dict(counts.ended.most_common()),
        "losses": len(counts.losses),
        "hangs": len(counts.hangs),
        "tracebacks": len(counts.tracebacks),
        "seconds": round(seconds),
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
    }


def told(row: dict[str, Any]) -> str:
    """The line for a terminal."""
    ended = ", ".join(f"{number:,} {what}" for what, number in row["ended"].items())
    found = ", ".join(f"{row[kind]} {kind}" for kind in ("losses", "hangs", "tracebacks"))
    return (
        f"tried {row['tried']:,} {row['unit']}; of these {ended}; {found}; {row['seconds']} s; "
        f"{row['date']}, {row['versions']}"
    )


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


def keep(path: Path, row: dict[str, Any]) -> None:
    """Put a campaign's row in the place of its earlier one, or at the end.

    Raises:
        ValueError: a file that is there and holds no rows.
    """
    rows = json.loads(path.read_text()) if path.exists() else []
    if not isinstance(rows, list):
        raise ValueError(f"{path} must hold a list of rows, got {type(rows).__name__}")
    kept = {each["campaign"]: each for each in rows}
    kept[row["campaign"]] = row
    path.write_text(json.dumps([*kept.values()], indent=1) + "\n")
