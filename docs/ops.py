"""Writes docs/ops.md from what ops say and what was measured: `python docs/ops.py > docs/ops.md`."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fastsaddle.kernels.documentation import phrase, text
from fastsaddle.kernels.op import Op, ops

HEAD = """# Ops

What fastsaddle computes in kernels of its own. Each op is a call, by position or by name:

```python
import torch

from fastsaddle import kernels

x, mean = torch.randn(16, 4096), torch.empty(4096)
distance = torch.empty(16, dtype=torch.float64)
kernels.consensus(x=x, mean=mean, squared_distance=distance)
```

Ops write into tensors that they are given, and raise ValueError before anything is written where these are of another
shape, dtype, device or layout than is said here. Rows `[agents, columns]` have adjacent columns, a multiple of 32 of
them, and strides that are a multiple of 32. `torch.ops.fastsaddle.<op>` is the same as an operator, for `torch.compile`
and whoever watches operators; ops have no gradients. `fastsaddle.use_backend` chooses among the backends; an op is
computed by the reference, plain PyTorch, where it has no other.

*Passes* are how many float32 buffers as large as the rows (of layers: as large as the samples) are read or written at
the least, over the examples that tests take; [bits](bits.md) says what equal bits are.

*Percent of copy* is the speed at which these passes were made, 100 being that of `copy_` on buffers of the same size in
the same run. More is possible on a CPU: `copy_` fetches each line that it overwrites, an update in place does not.
Times are medians of C++ on {machine}, {threads} threads, torch {torch}, {date};
[measured](measured.md) has those of the reference, too. Nothing was measured on a GPU yet.

This page is written by `python docs/ops.py > docs/ops.md`, and a test compares it with the code and with the committed
measurements.

## Overview

"""
# what passes and tolerances are asked for
AGENTS, COLUMNS = 16, 1024
# rows whose times the overview has
MEASURED_AT = 16, 1_000_000
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "cpu.json"


def number(passes: float) -> str:
    return f"{passes:.2f}".rstrip("0").rstrip(".")


def floor(op: Op) -> str:
    examples = op.examples(AGENTS, COLUMNS, torch.Generator().manual_seed(0)).values()
    found = sorted({number(op.passes(arguments)) for arguments in examples}, key=float)
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"


def cell(words: str) -> str:
    return words.replace("|", r"\|")


@cache
def results() -> dict[str, Any]:
    """The committed measurements."""
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


def head() -> str:
    """What stands before the ops, with the machine that times are of."""
    machine = results()["machine_info"]
    told = {
        "{machine}": machine["cpu"]["brand_raw"],
        "{threads}": str(machine["threads"]),
        "{torch}": machine["torch"],
        "{date}": results()["datetime"][:10],
    }
    return re.sub(r"{\w+}", lambda found: told[found[0]], HEAD)


def cases(op: Op) -> list[dict[str, Any]]:
    """Measurements of its C++, with options of their own or without, in their order."""
    return [
        case
        for case in results()["benchmarks"]
        if case["extra_info"].get("implementation") == "native"
        and case["extra_info"].get("op", "").partition(",")[0] == op.name
    ]


def time_of(case: dict[str, Any]) -> str:
    # rounded to microseconds first, as docs/measured.md is
    return f"{round(1000 * case['stats']['median'], 3):.2f}"


def percent_of(case: dict[str, Any]) -> str:
    return f"{case['extra_info']['percent_of_copy']:.0f}"


def measured(op: Op) -> str:
    """A line of all its measurements; nothing where there is none."""
    told = []
    for case in cases(op):
        info = case["extra_info"]
        options = info["op"].removeprefix(op.name).replace(",", " with")
        where = f"{info['agents']} x {info['dim']:,}{options}"
        told.append(f"{time_of(case)} ms and {percent_of(case)} % of copy for {where}")
    return f"Measured: {'; '.join(told)}." if told else ""


def summary(op: Op) -> str:
    """Its first sentence, without a formula behind a colon."""
    sentence = re.split(r"\.\s", " ".join(text(op).split("\n\n")[0].split()) + " ")[0]
    words, _, rest = sentence.partition(":")
    return words if "=" in rest else sentence


def row(op: Op) -> str:
    """Its line in the overview."""
    plain = [
        case
        for case in cases(op)
        if case["extra_info"]["op"] == op.name
        and (case["extra_info"]["agents"], case["extra_info"]["dim"]) == MEASURED_AT
    ]
    figures = [time_of(plain[0]), percent_of(plain[0])] if plain else ["", ""]
    cells = [f"[`{op.name}`](#{op.name})", cell(summary(op)), floor(op), *figures]
    return f"| {' | '.join(cells)} |"


def overview() -> str:
    agents, columns = MEASURED_AT
    return "\n".join(
        [
            f"| op | what it does | passes | ms, {agents} x {columns:,} | % of copy |",
            "| --- | --- | ---: | ---: | ---: |",
            *(row(op) for op in sorted(ops().values(), key=lambda op: op.is_layer)),
            "",
        ]
    )


def section(op: Op) -> str:
    told, _, bits = text(op).partition("\n\nRounding:")
    heading, _, rest = told.partition("\n")
    bits = " ".join(bits.split())
    rows = [f"| `{a.name}` | {cell(phrase(a))} |" for a in op.arguments]
    returned = "\n\nReturns a new tensor, contiguous." if op.makes is not None else ""
    facts = [
        f"Passes: {floor(op)}. Backends: {', '.join(op.backends)}.",
        *([measured(op)] if cases(op) else []),
        f"Bits: {bits}",
    ]
    return "\n".join(
        [
            f"{'###' if op.is_layer else '##'} {op.name}",
            "",
            "```text",
            f"{heading}\n{rest.rstrip()}".rstrip(),
            "```",
            "",
            "| argument | |",
            "| --- | --- |",
            *rows,
            f"{returned}\n" if returned else "",
            "\n\n".join(facts),
            "",
        ]
    )


def page() -> str:
    """The whole page."""
    of_models = [section(op) for op in ops().values() if not op.is_layer]
    of_layers = [section(op) for op in ops().values() if op.is_layer]
    return "\n".join([head() + overview(), *of_models, "## Layers of networks\n", *of_layers])


if __name__ == "__main__":
    print(page(), end="")
