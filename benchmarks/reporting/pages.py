"""Pages whose figures stand between marks, `<!-- measured: NAME -->` and `<!-- measured: end -->`."""

import re
from pathlib import Path

from benchmarks.reporting.blocks import BLOCKS
from benchmarks.reporting.results import Results

ROOT = Path(__file__).resolve().parents[2]
END = "<!-- measured: end -->"
MARK = re.compile(r"<!-- measured: ([\w-]+) -->")


def pages() -> list[Path]:
    """README.md and all pages of docs/ that have marks."""
    found = (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
    return [page for page in found if MARK.search(page.read_text())]


def rewritten(text: str, results: Results) -> str:
    """The text with what stands between its marks made from the results.

    Raises:
        ValueError: a mark that is not known, or that no other ends.
    """
    first, *rest = re.split(r"(?=<!-- measured: )", text)
    parts, is_open = [first], False
    for part in rest:
        found = MARK.match(part)
        name = found[1] if found else ""
        if is_open != (name == "end"):
            raise ValueError(
                f"marks must come in pairs, <!-- measured: NAME --> and {END}, got {part[:40]!r}"
            )
        is_open = not is_open
        if not is_open:
            parts.append(part)
        elif name in BLOCKS:
            parts.append(f"<!-- measured: {name} -->\n{BLOCKS[name](results)}\n")
        else:
            raise ValueError(f"a mark must name one of {', '.join(BLOCKS)}, got {name!r}")
    if is_open:
        raise ValueError(f"marks must come in pairs: {END} is missing")
    return "".join(parts)
