"""What the model of benchmarks/model.py says of kernels on GPUs that are not here: no figure of it is measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.reporting.markdown import table

COLUMNS = (
    *("kernel", "op", "agents", "target", "registers", "spilled", "threads", "resident"),
    *("programs", "passes", "from L2", "bits", "% of copy"),
)
SIDES = "ll" + "r" * (len(COLUMNS) - 2)


def model(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(COLUMNS, SIDES, map(cells, rows))


def header() -> str:
    """The table's head alone."""
    return model(())


def line(row: Mapping[str, Any]) -> str:
    """A row of the table."""
    return model((row,)).splitlines()[-1]


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row's texts; a star says that a measurement stands behind an estimate."""
    on = row["calibrated on"]
    estimates = ", ".join(
        f"{name} {percent:.0f}{'*' if on[name] else ''}"
        for name, percent in row["% of copy"].items()
    )
    texts = {
        **row,
        "agents": f"{row['agents']:,}",
        "passes": f"{row['passes']:.2f}",
        "from L2": f"{row['from L2']:.2f}",
        "programs": f"{row['programs']:,}",
        "bits": "/".join(map(str, row["bits"])),
        "% of copy": estimates or "few bytes",
    }
    return [str(texts[name]) for name in COLUMNS]
