"""Writes the table of block shapes by what a GPU measured: `python benchmarks/chosen.py FIGURES TABLE`.

FIGURES is what `bash benchmarks/on_gpu.sh DIR shapes` wrote, DIR/shapes.json. TABLE is the package's
kernels/_shared/shapes/chosen.json with the fastest shapes for this kind of device, marked with device, versions and
date: ready to be put in its place. An entry keeps its shape where not all alternatives were measured; figures of a CPU
change nothing.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("figures", type=Path, help="what on_gpu.sh's part shapes wrote")
    parser.add_argument("table", type=Path, help="write the table there")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from fastsaddle.kernels._shared.shapes.alternatives import ALTERNATIVES
    from fastsaddle.kernels._shared.shapes.table import PATH, read

    try:
        content = chosen(json.loads(options.figures.read_text()), read(PATH), ALTERNATIVES)
        options.table.write_text(json.dumps(content, indent=1) + "\n")
        # what is written can be read
        read(options.table)
    except (KeyError, OSError, ValueError) as error:
        sys.exit(f"chosen: error: {options.figures} must hold figures of shapes, got {error!r}")


def chosen(
    report: Mapping[str, Any], present: Mapping[str, Any], alternatives: Mapping[str, Any]
) -> dict[str, Any]:
    """The table with the fastest shapes.

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


if __name__ == "__main__":
    main()
