"""Docstrings are plain text with `code` in backticks and indented equations, and become reStructuredText here.

What is indented behind a blank line is shown as it is, and so are examples; everywhere else the characters that
reStructuredText would take for marks are escaped. Code that is a public name, such as `fs.comm.Gossip`, `Gossip(...)`
on a page of fs.comm, or `step()` of the same class, becomes a link. Sections (`Args:`, `Raises:`, `Example:` ...) are
left for napoleon.
"""

import inspect
import re
from typing import Any

from public_names import documented, names
from sphinx.application import Sphinx

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Examples?):$")
CODE = re.compile(r"(`+[^`]+`+)")
MARKS = re.compile(r"([\\|*])|(_)(?!\w)")
# values such as "ring", which typographic quotes would spoil
VALUE = re.compile(r'(?<![^\s(])"[\w.:-]+"(?!\w)')
PAGE = re.compile(r"\bdocs/([\w-]+)\.md\b")
BULLET = re.compile(r"\s*\* ")
# a dotted name, and maybe a call of it
NAME = re.compile(r"([A-Za-z_][\w.]*)(\(.*\))?$")


def targets() -> dict[str, str]:
    """Every spelling of a public name, and of a public method, with the name of its entry."""
    found = dict(names())
    for name, obj in documented().items():
        if inspect.isclass(obj):
            found |= {f"{name}.{member}": f"{name}.{member}" for member in _members(obj)}
    for spelling, name in names().items():
        members = [path for path in found if path.startswith(f"{name}.")]
        found |= {spelling + path.removeprefix(name): path for path in members}
    return found


def _members(cls: type) -> list[str]:
    """Public members that a class has documented itself."""
    return [
        name
        for name, member in vars(cls).items()
        if not name.startswith("_")
        and getattr(member, "__doc__", None)
        and (inspect.isfunction(member) or isinstance(member, property | classmethod))
    ]


TARGETS = targets()


def target(code: str, at: str) -> str | None:
    """The entry that code in the docstring of `at` names; None where it names none."""
    match = NAME.match(code)
    if match is None:
        return None
    name, call = match.groups()
    if name.startswith(("fs.", "fastsaddle.")):
        return TARGETS.get(re.sub(r"^fs\.", "fastsaddle.", name))
    # as seen from the class, its module and the root
    scopes = at.split(".")
    for depth in range(len(scopes), 0, -1):
        found = TARGETS.get(".".join([*scopes[:depth], name]))
        # words in lower case are mostly arguments, unless they are called
        if found is not None and found != at:
            is_function = call or not name.islower() or name in FUNCTIONS
            return found if is_function else None
    return None


# names of functions and methods that no argument has
FUNCTIONS = frozenset(path.rpartition(".")[2] for path in TARGETS if "_" in path.rpartition(".")[2])


def linked(code: str, at: str) -> str:
    """Code as a literal, or as a link."""
    code = code.strip("`")
    entry = target(code, at)
    if entry is None or "<" in code or "\\" in code:
        return f"``{code}``"
    return f":py:obj:`{code} <{entry}>`"


def escaped(line: str, at: str = "") -> str:
    """Without marks but bullets and code, which is literal: single backticks become double ones."""
    bullet = BULLET.match(line)
    start = bullet.end() if bullet else 0
    parts = CODE.split(line[start:])
    parts[0::2] = [VALUE.sub(lambda m: f"`{m[0]}`", part) for part in parts[0::2]]
    parts = CODE.split("".join(parts))
    words = [MARKS.sub(lambda m: "\\" + m[0], part) for part in parts[0::2]]
    words = [PAGE.sub(r":doc:`/\1`", word) for word in words]
    codes = [linked(code, at) for code in parts[1::2]]
    joined = [words[0]]
    for code, word in zip(codes, words[1:], strict=True):
        # a letter right behind code would keep it from ending
        joined += [code, "\\ " if word[:1].isalnum() else "", word]
    return line[:start] + "".join(joined)


def reformatted(lines: list[str], at: str = "") -> list[str]:
    out: list[str] = []
    section = literal = example = False
    for number, line in enumerate(lines):
        # an example goes on until a blank line
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if SECTION.match(line):
            section, literal = True, False
            out.append(line)
        elif example or (literal and not line.strip()):
            out.append(line)
        elif section and (line[:1].isspace() or not line):
            out.append(escaped(line, at))
        elif line[:1].isspace():
            if not literal and number and not lines[number - 1].strip():
                out += [".. code-block:: text", ""]
                literal = True
            out.append(line if literal else escaped(line, at))
        else:
            section = False
            if literal and line:
                literal = False
            out.append(escaped(line, at))
    return out


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = reformatted(lines, name)


def setup(app: Sphinx) -> dict[str, bool]:
    # before napoleon's, which has 500
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
