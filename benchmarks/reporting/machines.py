"""Lines on where figures come from."""

import statistics
from typing import Any

from benchmarks.machine import line


def machine(report: dict[str, Any]) -> str:
    """Of what pytest-benchmark wrote: processor, versions, day, and the copy's bandwidth."""
    info = report["machine_info"]
    processor = info["device"] if info["device"] != "cpu" else info["cpu"]["brand_raw"]
    infos = [row["extra_info"] for row in report["benchmarks"]]
    bandwidth = [info["copy_gb_per_s"] for info in infos if "copy_gb_per_s" in info]
    where = f"{processor}, {info['threads']} CPU threads, torch {info['torch']}, {report['datetime'][:10]}"
    if not bandwidth:
        return where
    middle = statistics.median_high(bandwidth)
    return f"{where}; `copy_` {middle:.1f} GB/s (read + write, median of the run)"


def versions(report: dict[str, Any]) -> str:
    """The same of a GPU, with all versions."""
    info = report["machine_info"]
    names = ("triton", "cuda", "hip", "python_version")
    found = [f"{name.partition('_')[0]} {info[name]}" for name in names if info.get(name)]
    return f"{machine(report)}; {', '.join(found)}."


def machines(parts: dict[str, Any], threads: str) -> list[str]:
    """A line for each machine, version and day; parts of one are told of together, with their loads."""
    loads: dict[str, list[float]] = {}
    for part in parts.values():
        where = line({**part["machine"], "load": ""}, threads)
        loads.setdefault(where, []).append(part["machine"]["load"])
    return [f"{where}{min(each):g} to {max(each):g}" for where, each in loads.items()]
