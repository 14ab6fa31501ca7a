"""What the library says, as whoever typed a command would: options and files in place of arguments and objects."""

import re
from dataclasses import fields

from fastsaddle.sim import methods
from fastsaddle.sim.choices import option
from fastsaddle.sim.config import TrainConfig

NAMES = "|".join(field.name for field in fields(TrainConfig))
LONG = "|".join(field.name for field in fields(TrainConfig) if "_" in field.name)
# neither within a path, nor an attribute, nor an argument of a call
APART = r"(?<![\w./\-(='\"])(?<!\w, )"
GIVEN = re.compile(
    rf"{APART}({NAMES})=(\"\w[^\"]*\"|'\w[^']*'|True|False|-?\d+(?:\.\d+)?)(?!\w|\.\d)"
)
NAMED = re.compile(rf"{APART}({LONG})(?![\w=./(])")
FIRST = re.compile(rf"^({NAMES})(?= must )")
GRAPH = re.compile(r"\b(?:Topology|Schedule)\(([^,()]+), agents=\d+, [^()]*\)")
CLASS = re.compile(r"\bfs\.([A-Z]\w*)\b(?!\()")


def as_typed(message: str) -> str:
    """A message with `--push-sum` for `push_sum=True`, `--topology`'s file for a `Topology`, and so on."""
    message = GRAPH.sub(r"the topology \1", message)
    message = GIVEN.sub(lambda found: _option(*found.groups()), message)
    message = NAMED.sub(lambda found: f"--{option(found[1])}", message)
    message = FIRST.sub(lambda found: f"--{option(found[1])}", message)
    return CLASS.sub(_algorithm, message)


def _option(name: str, value: str) -> str:
    """A field and its value as one types them."""
    if value in ("True", "False"):
        return f"--{option(name)}" if value == "True" else f"--no-{option(name)}"
    return f"--{option(name)} {value.strip(chr(34) + chr(39))}"


def _algorithm(found: "re.Match[str]") -> str:
    """A public optimizer's class as `--algorithm` spells it; any other name as it is."""
    name = methods.spelled(found[1])
    return f"--algorithm {name}" if name in methods.names() else found[0]
