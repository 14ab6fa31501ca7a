"""One page on what benchmarks/on_gpu.sh did: which figures are met, missed or not measured, its parts, all tables."""

from pathlib import Path

from benchmarks.reporting.curated import read
from benchmarks.reporting.figures import Figure, of_gpu
from benchmarks.reporting.machines import versions
from benchmarks.reporting.markdown import bullets, paragraphs, table
from benchmarks.reporting.render import tables
from benchmarks.reporting.rows import infos, on_gpu


def gpu_page(folder: Path) -> str:
    """Markdown from what lies in the folder that on_gpu.sh was given, whatever that is; without a last line break.

    Raises:
        ValueError: figures in it that cannot be read.
    """
    path = folder / "gpu.json"
    report = read([path]) if path.exists() else None
    is_measured = report is not None and on_gpu(report)
    figures = of_gpu(infos(report) if report and is_measured else [])
    counts = {verdict: 0 for verdict in ("met", "missed", "not measured")}
    for figure in figures:
        counts[figure.verdict] += 1
    parts = [
        f"# On a GPU: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}",
        versions(report) if report else "Nothing was measured.",
    ]
    if report and not is_measured:
        parts.append(
            "This was a trial on a CPU, at the smallest sizes: none of its numbers is a figure."
        )
    parts += [verdicts(figures), ran(folder)]
    if report:
        parts.append(tables(report))
    return paragraphs(*parts)


def verdicts(figures: list[Figure]) -> str:
    worst = ("" if figure.worst is None else f"{figure.worst:.3g}" for figure in figures)
    rows = [(f.what, f.bound, value, f.verdict) for f, value in zip(figures, worst, strict=True)]
    return table(("what", "figure", "measured", ""), "llrl", rows)


def ran(folder: Path) -> str:
    """How each part ended."""
    found = [path.read_text().strip() for path in sorted(folder.glob("*.status"))]
    return paragraphs("Parts:", bullets(found)) if found else "No part ran."
