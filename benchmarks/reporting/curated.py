"""JSON that pytest-benchmark wrote, and what of it is kept: figures, device and versions, no host's name."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ALWAYS = ("device", "threads", "torch", "triton", "python_version", "system", "machine")
ON_A_GPU = ("memory_bytes", "multiprocessors", "cuda", "hip", "kind")


def read(paths: Iterable[Path]) -> dict[str, Any]:
    """One curated report of several files of one machine; of a case in two files the later counts.

    Takes files as pytest-benchmark wrote them, and curated ones.

    Raises:
        ValueError: a file that is no report, or files of different devices or versions of torch.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            found = curated(json.loads(path.read_text()))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} must be pytest-benchmark's JSON, got {error!r}") from error
        if not merged:
            merged = found
            continue
        for name in ("device", "torch"):
            first, other = merged["machine_info"][name], found["machine_info"][name]
            if first != other:
                raise ValueError(f"files of one {name} can be merged, got {first} and {other}")
        rows = {row["name"]: row for row in (*merged["benchmarks"], *found["benchmarks"])}
        merged["benchmarks"] = list(rows.values())
        merged["datetime"] = max(merged["datetime"], found["datetime"])
    return merged


def write(report: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n")


def curated(report: dict[str, Any]) -> dict[str, Any]:
    """What is worth keeping of a run. A case that failed after it was timed has no figures and is left out."""
    info = report["machine_info"]
    kept = [*ALWAYS, *(name for name in ON_A_GPU if name in info)]
    return {
        "datetime": report["datetime"],
        "machine_info": {
            **{name: info[name] for name in kept},
            "cpu": {name: info["cpu"].get(name) for name in ("brand_raw", "count")},
        },
        "benchmarks": [
            {
                "name": row["name"].replace("test_room[", "test_op["),
                "extra_info": renamed(row["extra_info"]),
                "stats": {name: row["stats"][name] for name in ("min", "median", "max", "rounds")},
            }
            for row in report["benchmarks"]
            if row["extra_info"]
        ],
    }


def renamed(info: dict[str, Any]) -> dict[str, Any]:
    """Figures under the names of today: files of old call an op a room."""
    return {"op" if key == "room" else key: value for key, value in info.items()}
