"""Which block shapes kernels are launched with: `shape` reads them from chosen.json, which says who chose them.

The file holds, by kind of device (`default` for those it does not name) and by kernel, entries for ever more agents:
`agents`, the most that an entry is for (null: any number; the last one's), `shape`, a name of alternatives.py, and
`from`: `model`, for benchmarks/model.py, or `measured: DEVICE, torch VERSION, triton VERSION, DATE`.
`bash benchmarks/on_gpu.sh DIR shapes` writes DIR/chosen.json, to be put in its place.
"""

import contextlib
import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from fastsaddle.kernels._shared.shapes.alternatives import ALTERNATIVES
from fastsaddle.kernels._shared.shapes.devices import device_of

PATH = Path(__file__).with_name("chosen.json")
KIND = re.compile(r"default|sm_\d+|gfx[0-9a-f]+")
ORIGIN = re.compile(r"model|measured: [^,]+, torch [^,]+, triton [^,]+, \d{4}-\d{2}-\d{2}")
KEYS = {"agents", "shape", "from"}
# kernel -> name of the alternative that is launched whatever the table says
_forced: dict[str, str] = {}

Table = Mapping[str, Mapping[str, list[dict[str, Any]]]]


def shape(kernel: str, agents: int, device: torch.device) -> Mapping[str, int]:
    """The constants that a kernel is launched with.

    Args:
        kernel: one of ALTERNATIVES. agents: of the stack. device: of its tensors.

    Raises:
        ValueError: what `read` raises of the package's file.
    """
    if name := _forced.get(kernel):
        return ALTERNATIVES[kernel][name]
    return _constants(kernel, agents, device_of(device).kind)


@functools.lru_cache(maxsize=1024)
def _constants(kernel: str, agents: int, kind: str) -> Mapping[str, int]:
    return ALTERNATIVES[kernel][entry(table(), kernel, agents, kind)["shape"]]


def entry(chosen: Table, kernel: str, agents: int, kind: str) -> Mapping[str, Any]:
    """The entry for a stack on a kind of device."""
    entries = chosen.get(kind, {}).get(kernel) or chosen["default"][kernel]
    return next(e for e in entries if e["agents"] is None or agents <= e["agents"])


@functools.cache
def table() -> Table:
    """What the package's file says, read once."""
    return read(PATH)


def read(path: Path) -> Table:
    """Read a table.

    Raises:
        ValueError: it cannot be read, or breaks a rule; the message names the file and the rule.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be a readable file of JSON, got {error!r}") from error

    def need(rule: str, is_kept: object, got: Any) -> None:
        if not is_kept:
            raise ValueError(f"{path}: {rule}, got {got!r}")

    need("must be an object by kind of device", isinstance(content, dict), content)
    for kind, kernels in content.items():
        need("a kind must be default, sm_NUMBER or gfxNUMBER", KIND.fullmatch(kind), kind)
        need(f"{kind} must be an object by kernel", isinstance(kernels, dict), kernels)
        for kernel, entries in kernels.items():
            where = f"{kernel} on {kind}"
            need(
                f"a kernel must be one of {', '.join(ALTERNATIVES)}", kernel in ALTERNATIVES, kernel
            )
            is_list = (
                isinstance(entries, list) and entries and all(isinstance(e, dict) for e in entries)
            )
            need(f"{where} must be a list of entries", is_list, entries)
            for e in entries:
                need(f"entries of {where} must have {', '.join(sorted(KEYS))}", {*e} == KEYS, e)
                names = ALTERNATIVES[kernel]
                need(f"shape of {where} must be one of {', '.join(names)}", e["shape"] in names, e)
                is_origin = isinstance(e["from"], str) and ORIGIN.fullmatch(e["from"])
                need(
                    f"from of {where} must be model or measured: DEVICE, torch VERSION, "
                    "triton VERSION, YYYY-MM-DD",
                    is_origin,
                    e,
                )
            ends = [e["agents"] for e in entries]
            counted = [n for n in ends[:-1] if type(n) is int and n > 0]
            is_growing = ends[-1] is None and counted == ends[:-1] == sorted({*counted})
            need(
                f"agents of {where} must grow from entry to entry and end with null",
                is_growing,
                ends,
            )
    for kernel in ALTERNATIVES:
        is_there = kernel in content.get("default", {})
        need(
            f"default must name every kernel, {kernel} too", is_there, [*content.get("default", {})]
        )
    return content


@contextlib.contextmanager
def forced(kernel: str, name: str) -> Iterator[None]:
    """Launch a kernel with this alternative, whatever the table says; to measure and to test it."""
    before = dict(_forced)
    _forced[kernel] = name
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)


def origins() -> list[str]:
    """A line for each origin of the package's choices: whose they are, and for which kernels and devices."""
    found: dict[str, list[str]] = {}
    for kind, kernels in table().items():
        for kernel, entries in kernels.items():
            for origin in dict.fromkeys(e["from"] for e in entries):
                where = kernel if kind == "default" else f"{kernel} on {kind}"
                found.setdefault(origin, []).append(where)
    return [f"{origin}: {', '.join(names)}" for origin, names in found.items()]
