"""Where the CPU is not at its memory's limit, and why; every number is one of the report's."""

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.reporting.markdown import bullets, paragraphs
from benchmarks.reporting.rows import label, timed

TRACKING = ("GradientTracking.step", "MomentumTracking.step", "D2.step")
OURS = ("native", "fastsaddle")


def remarks(report: dict[str, Any]) -> str:
    """What was not measured is not spoken of."""
    rows = [row for row in timed(report) if row["extra_info"]["implementation"] in OURS]

    def percents(wanted: Callable[[str], bool]) -> str:
        return span(row["extra_info"]["percent_of_copy"] for row in rows if wanted(label(row)))

    spoken = (
        (("consensus",), "`consensus` sums in float64: {}"),
        (("mix_dense",), "`mix_dense` is bound by arithmetic: {}"),
        (("quantize",), "`quantize` makes random bits: {}"),
        (("top_k",), "`top_k` ranks what it collects: {}"),
        (TRACKING, "tracking methods are PyTorch between their ops, in pieces that stay in the caches: {}"),
    )  # fmt: skip
    found = [(text, percents(lambda what, names=names: what in names)) for names, text in spoken]
    lines = [text.format(percent) for text, percent in found if percent]
    slower = milliseconds(rows, "error feedback, 8 bits"), milliseconds(rows, "compress_ef")
    return paragraphs(
        "What is not bound by memory, in percent of the copy bandwidth:" if lines else "",
        bullets(lines),
        f"`compress_ef` through its class, which first makes sure that all numbers are finite, takes "
        f"{slower[0] / slower[1]:.1f} times as long."
        if all(slower)
        else "",
    )


def span(percents: Iterable[float]) -> str:
    """ "54 to 55", or "54" where that is all, or nothing."""
    ordered = sorted(f"{percent:.0f}" for percent in percents)
    ordered.sort(key=int)
    return " to ".join(dict.fromkeys((ordered[0], ordered[-1]))) if ordered else ""


def milliseconds(rows: list[dict[str, Any]], what: str) -> float:
    """Time of the first size of a row; 0 where it was not measured."""
    infos = [row["extra_info"] for row in rows if label(row) == what]
    return infos[0]["bytes"] / infos[0]["gb_per_s"] / 1e6 if infos else 0.0
