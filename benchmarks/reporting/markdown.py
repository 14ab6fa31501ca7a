"""Markdown that GitHub and the site show alike."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], sides: str, rows: Iterable[Iterable[object]]) -> str:
    """A table.

    Args:
        head: titles of the columns.
        sides: a letter for each column: l where its cells stand to the left, r to the right.
        rows: cells.
    """
    rules = {"l": "---", "r": "---:"}
    lines = (head, [rules[side] for side in sides], *rows)
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def folded(title: str, text: str) -> str:
    """Text that a click on its title shows."""
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def paragraphs(*parts: str) -> str:
    """What there is of the parts, an empty line between each two."""
    return "\n\n".join(part for part in parts if part)
