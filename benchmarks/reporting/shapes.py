"""The table of block shapes, kernels/_shared/shapes/chosen.json, by what a GPU measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_table(figures: Path, table: Path) -> None:
    """Write the table with the fastest shapes for one kind of device, ready to be put in the package's place.

    Args:
        figures: DIR/shapes.json, which `bash benchmarks/on_gpu.sh DIR shapes` wrote.
        table: where to.

    Raises:
        ValueError: figures that are not those of shapes.
    """
    from fastsaddle.kernels._shared.shapes.alternatives import ALTERNATIVES
    from fastsaddle.kernels._shared.shapes.table import PATH, read

    try:
        content = chosen(json.loads(figures.read_text()), read(PATH), ALTERNATIVES)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{figures} must hold figures of shapes, got {error!r}") from error
    table.write_text(json.dumps(content, indent=1) + "\n")
    # what is written can be read
    read(table)


def chosen(
    report: Mapping[str, Any], present: Mapping[str, Any], alternatives: Mapping[str, Any]
) -> dict[str, Any]:
    """The table with the fastest shapes, each marked with device, versions and date.

    An entry keeps its shape where not all alternatives were measured; figures of a CPU change nothing.

    Args:
        report: pytest-benchmark's JSON. present: the table so far. alternatives: names by kernel.
    """
    info, result = report["machine_info"], json.loads(json.dumps(present))
    if info["device"] == "cpu":
        return result
    device, torch_, triton = (
        str(info[name]).replace(",", "") for name in ("device", "torch", "triton")
    )
    origin = f"measured: {device}, torch {torch_}, triton {triton}, {report['datetime'][:10]}"
    percents: dict[tuple[str, int | None], dict[str, float]] = {}
    for figures in (row["extra_info"] for row in report["benchmarks"]):
        if "choice" in figures and "percent_of_copy" in figures:
            place = figures["choice"], figures["to_agents"]
            percents.setdefault(place, {})[figures["alternative"]] = figures["percent_of_copy"]
    for kernel, names in alternatives.items():
        entries = [dict(entry) for entry in present["default"][kernel]]
        found = [percents.get((kernel, entry["agents"]), {}) for entry in entries]
        for entry, speeds in zip(entries, found, strict=True):
            if set(speeds) == set(names):
                entry |= {"shape": max(speeds, key=lambda name: speeds[name]), "from": origin}
        if any(entry["from"] == origin for entry in entries):
            result.setdefault(info["kind"], {})[kernel] = entries
    return result
