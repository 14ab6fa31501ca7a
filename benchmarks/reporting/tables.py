"""Markdown of one machine's figures: bandwidth, speed against what one would write today, stacking tax."""

import math
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


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


def bandwidth_table(rows: list[Row]) -> list[str]:
    """Markdown rows, one a benchmark: time and percent of the copy bandwidth."""
    lines = [
        "| what | implementation | agents x parameters | ms | GB/s | % of copy |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for info in by_speed(row["extra_info"] for row in rows):
        lines.append(
            f"| {named(info)} | {info['implementation']} | {info['agents']} x {info['dim']:,} | "
            f"{milliseconds(info):.2f} | {info['gb_per_s']:.1f} | {info['percent_of_copy']:.0f} |"
        )
    return lines


def comparison(rows: list[Row]) -> list[str]:
    """How much faster each thing is than the ways to write it today, same size, same run."""
    infos = [r["extra_info"] for r in rows]
    ours = {_key(i): i for i in infos if i["implementation"] == "fastsaddle"}
    found: dict[str, list[str]] = {}
    for row, info in zip(rows, infos, strict=True):
        mine = ours.get(_key(info))
        if mine is not None and info is not mine:
            ratio = milliseconds(info) / milliseconds(mine)
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
    return info.get("method", info.get("op")), info["agents"], info["dim"]


def tax_tables(rows: list[Row]) -> list[str]:
    """Markdown of the stacking tax, a table for each number of agents."""
    lines = []
    for agents in sorted({row["extra_info"]["agents"] for row in rows}):
        lines += [
            "",
            f"Gradients of {agents} agents, batch 32, against one model on the concatenated batch:",
            "",
            "| network | engine | stacking tax | time of a plain loop over modules |",
            "| --- | --- | ---: | ---: |",
        ]
        mine = [row["extra_info"] for row in rows if row["extra_info"]["agents"] == agents]
        for info in sorted(mine, key=lambda info: (info["network"], info["asked"])):
            lines.append(
                f"| {info['network']} | {engine(info)} | {info['stacking_tax']:.2f} | {info['of_plain_loop']:.2f} x |"
            )
    return lines
