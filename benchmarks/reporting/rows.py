"""What a row of pytest-benchmark timed, and of which kind it is."""

import math
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
Info = dict[str, Any]


def label(row: Row) -> str:
    """What a row timed."""
    return named(row["extra_info"])


def named(info: dict[str, Any]) -> str:
    """What was timed: an op, an optimizer's step, or a shape of an op's blocks."""
    if "choice" in info:
        return f"{info['choice']}, {info['alternative']}"
    if "shape_of" in info:
        return f"{info['shape_of']}, {info['columns']} columns, {info['warps']} warps"
    return info["op"] if "op" in info else f"{info['method']}.step"


def milliseconds(info: dict[str, Any]) -> float:
    """What a call took, by its bytes and their bandwidth; not a number where it moved none, or next to none."""
    return info["bytes"] / info["gb_per_s"] / 1e6 if info["gb_per_s"] else math.nan


def by_speed(infos: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """By what was timed, the fastest implementation first."""
    return sorted(infos, key=lambda info: (named(info), -info["percent_of_copy"]))


def engine(info: dict[str, Any]) -> str:
    """The engine that took gradients, and whether it is the one that is chosen."""
    return info["implementation"] + (" (chosen)" if info["asked"] == "auto" else "")


def timed(report: dict[str, Any]) -> list[Row]:
    """Rows with a percentage of the copy bandwidth, block shapes left out."""
    infos = ((row, row["extra_info"]) for row in report["benchmarks"])
    return [
        row
        for row, info in infos
        if "percent_of_copy" in info and not {"shape_of", "choice"} & {*info}
    ]


def infos(report: dict[str, Any]) -> list[Info]:
    """The figures of all rows."""
    return [row["extra_info"] for row in report["benchmarks"]]


def is_op(row: Row) -> bool:
    """Whether a row timed an op by itself."""
    return row["name"].startswith("test_op[")


def on_gpu(report: dict[str, Any]) -> bool:
    return report["machine_info"]["device"] != "cpu"
