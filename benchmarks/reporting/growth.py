"""How time and memory of a step grow with the number of agents, from what benchmarks/growth.py measured."""

from typing import Any

from benchmarks.machine import line
from benchmarks.reporting.markdown import listed, paragraphs, table

# over the extrapolation from the fewest agents, in time and in memory
LIMIT = 1.5
COUNTS = {1: "one thread", 2: "two threads"}


def growth(content: dict[str, Any]) -> str:
    """What the largest stack takes, all sizes, and whether they are near enough to linear."""
    rows = content["rows"]
    counts = listed(sorted({str(row["threads"]) for row in rows}))
    head = ("threads", "agents", "ms a step", "over linear", "MiB at the peak", "over linear")
    cells = [
        (
            row["threads"],
            f"{row['agents']:,}",
            f"{1e3 * row['seconds']:.1f}",
            f"{row['time_over_linear']:.2f}",
            f"{row['bytes'] / 2**20:.0f}",
            f"{row['memory_over_linear']:.2f}",
        )
        for row in rows
    ]
    worst = max(max(row["time_over_linear"], row["memory_over_linear"]) for row in rows)
    return paragraphs(
        f"{line(content['machine'], f'threads {counts}')}.",
        words(rows),
        table(head, "r" * len(head), cells),
        f"The largest ratio is {worst:.2f}; at most {LIMIT} is asked for.",
    )


def words(rows: list[dict[str, Any]]) -> str:
    least, most = min(row["agents"] for row in rows), max(row["agents"] for row in rows)
    largest = [row for row in rows if row["agents"] == most]
    counts = [COUNTS.get(row["threads"], f"{row['threads']} threads") for row in largest]
    times = [
        f"{1e3 * row['seconds']:.0f} ms on {n}" for row, n in zip(largest, counts, strict=True)
    ]
    of_time, of_memory = (
        listed([f"{row[key]:.2f}" for row in largest])
        for key in ("time_over_linear", "memory_over_linear")
    )
    memory = max(row["bytes"] for row in largest) / 2**20
    return (
        f"With {most:,} agents a step takes {listed(times)}, in {memory:.0f} MiB; from {least} agents on that is "
        f"{of_time} of linear in time, {of_memory} in memory. Times are medians of the steps of the best pass."
    )
