"""Time and bandwidth of ops and steps, and how much slower one would have it in PyTorch today."""

from typing import Any

from benchmarks.reporting.markdown import paragraphs, table
from benchmarks.reporting.rows import Info, Row, by_speed, label, milliseconds, named


def bandwidth_table(rows: list[Row]) -> str:
    """A row for each benchmark."""
    head = ("what", "implementation", "agents x parameters", "ms", "GB/s", "% of copy")
    cells = [
        (
            named(info),
            info["implementation"],
            f"{info['agents']} x {info['dim']:,}",
            f"{milliseconds(info):.2f}",
            f"{info['gb_per_s']:.1f}",
            f"{info['percent_of_copy']:.0f}",
        )
        for info in by_speed(row["extra_info"] for row in rows)
    ]
    return table(head, "lllrrr", cells)


def comparison(rows: list[Row]) -> str:
    """How much faster each thing is than the ways to write it today, same size, same run; or nothing."""
    infos = [row["extra_info"] for row in rows]
    ours = {_key(info): info for info in infos if info["implementation"] == "fastsaddle"}
    found: dict[str, list[str]] = {}
    for row, info in zip(rows, infos, strict=True):
        mine = ours.get(_key(info))
        if mine is not None and info is not mine:
            ratio = milliseconds(info) / milliseconds(mine)
            found.setdefault(label(row), []).append(f"{ratio:.1f} x {info['implementation']}")
    if not found:
        return ""
    return paragraphs(
        "Against what one would write in PyTorch today, steps with their check for non-finite gradients:",
        table(
            ("what", "times as fast as"),
            "ll",
            [(what, ", ".join(ratios)) for what, ratios in sorted(found.items())],
        ),
    )


def _key(info: Info) -> tuple[Any, ...]:
    return info.get("method", info.get("op")), info["agents"], info["dim"]
