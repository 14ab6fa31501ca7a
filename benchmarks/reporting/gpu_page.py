"""One page on what benchmarks/on_gpu.sh did: which figures are met, missed or not measured, its parts, all tables."""

from pathlib import Path
from typing import Any

from reporting.figures import Figure, of_gpu
from reporting.files import read
from reporting.render import on_gpu, tables
from reporting.tables import machine


def gpu_page(folder: Path) -> str:
    """Markdown from what lies in the folder that on_gpu.sh was given, whatever that is; without a last line break.

    Raises:
        ValueError: figures in it that cannot be read.
    """
    path = folder / "gpu.json"
    report = read([path]) if path.exists() else None
    is_measured = report is not None and on_gpu(report)
    infos = [row["extra_info"] for row in report["benchmarks"]] if report and is_measured else []
    figures = of_gpu(infos)
    counts = {verdict: 0 for verdict in ("met", "missed", "not measured")}
    for figure in figures:
        counts[figure.verdict] += 1
    parts = [
        f"# On a GPU: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}",
        where(report) if report else "Nothing was measured.",
    ]
    if report and not is_measured:
        parts.append(
            "This was a trial on a CPU, at the smallest sizes: none of its numbers is a figure."
        )
    parts += ["\n".join(verdicts(figures)), "\n".join(ran(folder))]
    if report:
        parts.append(tables(report))
    return "\n\n".join(parts)


def where(report: dict[str, Any]) -> str:
    """The device and all versions."""
    info = report["machine_info"]
    names = ("triton", "cuda", "hip", "python_version")
    versions = [f"{name.partition('_')[0]} {info[name]}" for name in names if info.get(name)]
    return f"{machine(report)}; {', '.join(versions)}."


def verdicts(figures: list[Figure]) -> list[str]:
    lines = ["| what | figure | measured | |", "| --- | --- | ---: | --- |"]
    for figure in figures:
        worst = "" if figure.worst is None else f"{figure.worst:.3g}"
        lines.append(f"| {figure.what} | {figure.bound} | {worst} | {figure.verdict} |")
    return lines


def ran(folder: Path) -> list[str]:
    """How each part ended."""
    found = [f"* {path.read_text().strip()}" for path in sorted(folder.glob("*.status"))]
    return ["Parts:", "", *found] if found else ["No part ran."]
