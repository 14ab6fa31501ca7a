"""Turns the JSON of `pytest benchmarks/ --benchmark-only --benchmark-json=FILE` into the README's table and a picture.

    python benchmarks/report.py FILE... [--svg PICTURE] [--readme README.md] [--keep RESULT]

With `--readme` the text between the two benchmark marks is replaced; without, the table is printed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
COLORS = {"native": "#0072B2", "triton": "#D55E00", "fastsaddle": "#009E73", "reference": "#999999"}
OTHER = "#CC79A7"


def label(row: dict[str, Any]) -> str:
    """What a row timed: the room, or the optimizer's step."""
    info = row["extra_info"]
    return info["room"] if "room" in info else f"{info['method']}.step"


def machine(report: dict[str, Any]) -> str:
    """One line on where the numbers come from."""
    info, rows = report["machine_info"], report["benchmarks"]
    processor = info["device"] if info["device"] != "cpu" else info["cpu"]["brand_raw"]
    bandwidth = sorted(
        r["extra_info"]["copy_gb_per_s"] for r in rows if "copy_gb_per_s" in r["extra_info"]
    )
    middle = bandwidth[len(bandwidth) // 2] if bandwidth else 0.0
    copied = f"; `copy_` {middle:.1f} GB/s (read + write, median of the run)"
    where = f"{processor}, {info['threads']} CPU threads, torch {info['torch']}, {report['datetime'][:10]}"
    return where + (copied if bandwidth else "")


def bandwidth_table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown rows, one a benchmark: time and percent of the copy bandwidth."""
    lines = [
        "| what | implementation | agents x parameters | ms | GB/s | % of copy |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for row in sorted(rows, key=lambda r: (label(r), -r["extra_info"]["percent_of_copy"])):
        info = row["extra_info"]
        time_ms = info["bytes"] / info["gb_per_s"] / 1e6
        lines.append(
            f"| {label(row)} | {info['implementation']} | {info['agents']} x {info['dim']:,} | "
            f"{time_ms:.2f} | {info['gb_per_s']:.1f} | {info['percent_of_copy']:.0f} |"
        )
    return lines


def comparison(rows: list[dict[str, Any]]) -> list[str]:
    """How much faster each thing is than the ways to write it today, same size, same run."""
    infos = [r["extra_info"] for r in rows]
    ours = {_key(i): i for i in infos if i["implementation"] == "fastsaddle"}
    found: dict[str, list[str]] = {}
    for row, info in zip(rows, infos, strict=True):
        mine = ours.get(_key(info))
        if mine is not None and info is not mine:
            ratio = (info["bytes"] / info["gb_per_s"]) / (mine["bytes"] / mine["gb_per_s"])
            found.setdefault(label(row), []).append(f"{ratio:.1f} x {info['implementation']}")
    if not found:
        return []
    said = [f"`{what}`: {', '.join(ratios)}" for what, ratios in sorted(found.items())]
    return [
        "",
        "Speed against what one would write today (steps: with their check for non-finite gradients): "
        f"{'; '.join(said)}.",
    ]


def _key(info: dict[str, Any]) -> tuple[Any, ...]:
    return info.get("method", info.get("room")), info["agents"], info["dim"]


def tax_table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown rows of the stacking tax."""
    lines = [
        "| network | engine | stacking tax | time of a plain loop over modules |",
        "| --- | --- | ---: | ---: |",
    ]
    for row in sorted(rows, key=lambda r: (r["extra_info"]["network"], r["extra_info"]["asked"])):
        info = row["extra_info"]
        engine = info["implementation"] + (" (chosen)" if info["asked"] == "auto" else "")
        lines.append(
            f"| {info['network']} | {engine} | {info['stacking_tax']:.2f} | {info['of_plain_loop']:.2f} x |"
        )
    return lines


def render(report: dict[str, Any]) -> str:
    """The whole text for one run."""
    rows = report["benchmarks"]
    moved = [r for r in rows if "percent_of_copy" in r["extra_info"]]
    tax = [r for r in rows if "stacking_tax" in r["extra_info"]]
    parts = [machine(report), ""]
    if moved:
        parts += [*bandwidth_table(moved), *comparison(moved)]
    if tax:
        parts += [
            "",
            "Gradients of 16 agents, batch 32, against one model on the concatenated batch:",
            "",
        ]
        parts += tax_table(tax)
    return "\n".join(parts)


def draw(report: dict[str, Any], path: Path) -> None:
    """Bars of percent of the copy bandwidth, one a benchmark, colored by implementation."""
    from matplotlib.figure import Figure

    rows = [r for r in report["benchmarks"] if "percent_of_copy" in r["extra_info"]]
    rows.sort(key=lambda r: (label(r), r["extra_info"]["percent_of_copy"]))
    figure = Figure(figsize=(9, 0.26 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    names = [
        f"{label(r)}, {r['extra_info']['implementation']}, "
        f"{r['extra_info']['agents']} x {r['extra_info']['dim']:,}"
        for r in rows
    ]
    values = [r["extra_info"]["percent_of_copy"] for r in rows]
    colors = [COLORS.get(r["extra_info"]["implementation"], OTHER) for r in rows]
    bars = axes.barh(range(len(rows)), values, color=colors)
    axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=7)
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.axvline(100, color="black", linewidth=0.8, linestyle="--")
    axes.set_xlabel(
        "percent of the bandwidth of copy_ in the same run (bytes that must move / time)"
    )
    axes.set_title(machine(report).split(";")[0].replace("`", ""), fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def curated(report: dict[str, Any]) -> dict[str, Any]:
    """What is worth keeping of a run: the figures, the processor and the versions; no names of hosts."""
    info = report["machine_info"]
    kept = ("device", "threads", "torch", "triton", "python_version", "system", "machine")
    return {
        "datetime": report["datetime"],
        "machine_info": {
            **{name: info[name] for name in kept},
            "cpu": {name: info["cpu"].get(name) for name in ("brand_raw", "count")},
        },
        "benchmarks": [
            {
                "name": row["name"],
                "extra_info": row["extra_info"],
                "stats": {name: row["stats"][name] for name in ("min", "median", "max", "rounds")},
            }
            for row in report["benchmarks"]
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "files", nargs="+", type=Path, help="JSON files that pytest-benchmark wrote"
    )
    parser.add_argument("--svg", type=Path, help="draw the first file's bars there (.svg or .png)")
    parser.add_argument(
        "--readme", type=Path, help="replace the text between the marks of this file"
    )
    parser.add_argument(
        "--keep", type=Path, help="write the first file's figures there, for results/"
    )
    options = parser.parse_args()
    reports = [json.loads(file.read_text()) for file in options.files]
    if options.keep:
        options.keep.write_text(json.dumps(curated(reports[0]), indent=1) + "\n")
    text = "\n\n".join(map(render, reports))
    if options.svg:
        draw(reports[0], options.svg)
    if options.readme is None:
        print(text)
        return
    page = options.readme.read_text()
    if BEGIN not in page or END not in page:
        parser.error(f"{options.readme} must hold the marks {BEGIN} and {END}")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    options.readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
