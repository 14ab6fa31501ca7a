"""Writes docs/ops.md, the list of ops, from their own words: `python docs/ops.py > docs/ops.md`."""

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
the least, over the examples that tests take; [bits.md](bits.md) says what equal bits are.

This page is written by `python docs/ops.py > docs/ops.md`, and a test compares it with the code.
"""
# what passes and tolerances are asked for
AGENTS, COLUMNS = 16, 1024


def number(passes: float) -> str:
    return f"{passes:.2f}".rstrip("0").rstrip(".")


def floor(op: Op) -> str:
    examples = op.examples(AGENTS, COLUMNS, torch.Generator().manual_seed(0)).values()
    found = sorted({number(op.passes(arguments)) for arguments in examples}, key=float)
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"


def cell(words: str) -> str:
    return words.replace("|", r"\|")


def section(op: Op) -> str:
    told, _, bits = text(op).partition("\n\nRounding:")
    heading, _, rest = told.partition("\n")
    bits = " ".join(bits.split())
    rows = [f"| `{a.name}` | {cell(phrase(a))} |" for a in op.arguments]
    returned = "\n\nReturns a new tensor, contiguous." if op.makes is not None else ""
    facts = [
        f"Passes: {floor(op)}. Backends: {', '.join(op.backends)}.",
        f"Bits: {bits}",
    ]
    return "\n".join(
        [
            f"## {op.name}",
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
    return "\n".join([HEAD, *of_models, "# Layers of networks\n", *of_layers])


if __name__ == "__main__":
    print(page(), end="")
