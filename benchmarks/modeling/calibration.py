"""What a GPU measured, laid beside the model: two factors that bring the model nearest to it."""

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.modeling.estimate import Factors, percent_of_copy
from benchmarks.modeling.launches import ELEMENTS, Launch
from benchmarks.modeling.machines import MACHINES, Machine

# op, agents: what is measured, each a launch of one kernel
ROWS = (
    ("sam_perturb", 16),
    ("gossip_step", 16),
    ("gossip_step", 128),
    ("gossip_step", 1024),
    ("quantize", 16),
)
# factors that are tried
TRIED = tuple(2.0 ** (k / 8) for k in range(-16, 17))


@dataclass(frozen=True)
class Calibration:
    """What one device measured.

    Attributes:
        device: its name; versions: of torch and Triton.
        percents: of copy, by op and agents.
    """

    device: str
    versions: str
    percents: dict[tuple[str, int], float]

    @property
    def machine(self) -> Machine:
        """The class that the device is of. Raises ValueError where the model knows none."""
        found = [m for m in MACHINES if m.name in self.device]
        if not found:
            names = ", ".join(m.name for m in MACHINES)
            raise ValueError(f"a calibration must be of one of {names}, got {self.device}")
        return found[0]

    def fitted(self, launches: dict[tuple[str, int], Launch]) -> Factors:
        """The factors that bring the model's percents of these launches nearest to the measured ones."""
        machine = self.machine

        def distance(factors: Factors) -> float:
            return math.fsum(
                (percent_of_copy(launches[row], machine, factors) - percent) ** 2
                for row, percent in self.percents.items()
            )

        tried = [Factors(waiting, work) for waiting, work in itertools.product(TRIED, TRIED)]
        return min(tried, key=distance)


def read(path: Path) -> Calibration:
    """What `bash benchmarks/on_gpu.sh DIR calibration` wrote, or kept figures with the same rows.

    Raises:
        OSError: it cannot be read. ValueError: it is no such file, or of no GPU, or lacks rows.
    """
    try:
        content = json.loads(path.read_text())
        info, rows = content["machine_info"], content["benchmarks"]
        percents = percents_of(row["extra_info"] for row in rows)
        device, versions = info["device"], f"torch {info['torch']}, Triton {info['triton']}"
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must be figures that on_gpu.sh wrote, got {error!r}") from error
    if device == "cpu":
        raise ValueError(f"{path} must be of a GPU, got figures of a CPU")
    missing = [f"{op} with {agents} agents" for op, agents in ROWS if (op, agents) not in percents]
    if missing:
        raise ValueError(f"{path} must hold all rows of a calibration, {missing[0]} is missing")
    return Calibration(device, versions, percents)


def percents_of(infos: Any) -> dict[tuple[str, int], float]:
    """Percents of copy of the calibration's rows among figures."""
    found: dict[tuple[str, int], float] = {}
    for info in infos:
        row = (info.get("op"), info.get("agents"))
        is_same = info.get("implementation") == "triton" and "percent_of_copy" in info
        if row in ROWS and is_same and info["dim"] == ELEMENTS // info["agents"]:
            found[row] = float(info["percent_of_copy"])
    return found
