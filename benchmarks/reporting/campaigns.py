"""What campaigns that look for faults came to, from what `python -m tests.campaigns` kept."""

from typing import Any

from benchmarks.reporting.markdown import table


def campaigns(rows: list[dict[str, Any]]) -> str:
    head = ("campaign", "tried", "of these", "losses", "hangs", "tracebacks", "time", "how")
    cells = [
        (
            row["campaign"],
            f"{row['tried']:,} {row['unit']}",
            ", ".join(f"{number:,} {what}" for what, number in row["ended"].items()),
            row["losses"],
            row["hangs"],
            row["tracebacks"],
            f"{row['seconds']:.0f} s",
            f"`--only {row['campaign']} --seed {row['seed']}`, {row['date']}, {row['versions']}",
        )
        for row in rows
    ]
    return table(head, "lrlrrrrl", cells)
