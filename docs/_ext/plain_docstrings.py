"""Docstrings are plain text with `code` in backticks and indented equations, and become reStructuredText here.

What is indented behind a blank line is shown as it is; everywhere else the characters that reStructuredText would
take for marks are escaped, but for backticks. Sections (`Args:`, `Raises:` ...) are left for napoleon.
"""

import re
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Examples?):$")
CODE = re.compile(r"(`+[^`]+`+)")
MARKS = re.compile(r"([\\|*])|(_)(?!\w)")
BULLET = re.compile(r"\s*\* ")


def escaped(line: str) -> str:
    """Without marks but bullets and code, which is literal: single backticks become double ones."""
    bullet = BULLET.match(line)
    start = bullet.end() if bullet else 0
    parts = CODE.split(line[start:])
    words = [MARKS.sub(lambda m: "\\" + m[0], part) for part in parts[0::2]]
    codes = [f"``{code.strip('`')}``" for code in parts[1::2]]
    joined = [words[0]]
    for code, word in zip(codes, words[1:], strict=True):
        # a letter right behind code would keep it from ending
        joined += [code, "\\ " if word[:1].isalnum() else "", word]
    return line[:start] + "".join(joined)


def reformatted(lines: list[str]) -> list[str]:
    out: list[str] = []
    section = literal = False
    for number, line in enumerate(lines):
        if SECTION.match(line):
            section, literal = True, False
            out.append(line)
        elif line.lstrip().startswith((">>>", "...")) or (literal and not line.strip()):
            out.append(line)
        elif section and (line[:1].isspace() or not line):
            out.append(escaped(line))
        elif line[:1].isspace():
            if not literal and number and not lines[number - 1].strip():
                out += [".. code-block:: text", ""]
                literal = True
            out.append(line if literal else escaped(line))
        else:
            section = False
            if literal and line:
                literal = False
            out.append(escaped(line))
    return out


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = reformatted(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    # before napoleon's, which has 500
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
