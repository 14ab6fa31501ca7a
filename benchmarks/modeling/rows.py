"""The model's rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.modeling.estimate import Factors, percent_of_copy
from benchmarks.modeling.launches import ELEMENTS, Launch
from benchmarks.modeling.machines import Machine

# a launch is not judged that moves less than this share of what its op moves, or of a buffer
SHARE = 0.05


def row_of(
    op: str,
    agents: int,
    launch: Launch,
    whole: float,
    machines: Sequence[Machine],
    factors: Mapping[str, Factors],
    calibrated_on: Mapping[str, str],
) -> dict[str, Any]:
    """One launch.

    Args:
        op, agents: what was launched.
        launch: as it was compiled.
        whole: bytes of all launches of the op.
        machines: of the launch's target.
        factors: of each machine, by name.
        calibrated_on: the devices that these come from, by the machine's name; others are the model's own.
    """
    judged = launch.floor >= SHARE * max(whole, 4 * ELEMENTS)
    widths = launch.warp.widths
    return {
        "kernel": launch.kernel,
        "op": op,
        "agents": agents,
        "target": launch.target,
        "registers": launch.registers,
        "spilled": launch.spilled,
        "threads": launch.threads,
        "resident": launch.resident,
        "programs": launch.programs,
        "passes": launch.floor / (4 * ELEMENTS),
        "from L2": sum(b.again for b in launch.buffers) / (4 * ELEMENTS),
        "bits": sorted(widths) if widths else [],
        "% of copy": {
            m.name: percent_of_copy(launch, m, factors[m.name]) for m in machines if judged
        },
        "calibrated on": {m.name: calibrated_on.get(m.name) for m in machines},
    }
