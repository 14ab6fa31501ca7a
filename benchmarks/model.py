"""A model of every Triton kernel on GPUs that are not here: what it takes and moves, and how near to a copy it comes.

    python benchmarks/model.py [--op NAME...] [--agents N...] [--target sm_90...] [--calibration FILE] [--json FILE]

Kernels are compiled ahead of time, with Triton's own assembler; their machine code is followed once (instructions by
unit, loads that are waited for), and the programs that a multiprocessor holds share its memory, L2 and units, see
benchmarks/modeling/. A buffer holds 2^26 numbers. Nothing runs on a GPU, and none is needed. Where `bash
benchmarks/on_gpu.sh DIR calibration` measured on one, DIR/calibration.json brings the model nearer to that device; it
is read from benchmarks/results/calibration.json unless --calibration names another.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results" / "calibration.json"
TARGETS = ("sm_80", "sm_90", "sm_100")
# single numbers of samples, no rows of models
WITHOUT_ROWS = ("gather_batch",)
# of ops that mix; others do not see how many there are
AGENTS, ALIKE = (1, 16, 48, 64, 128, 256, 1024), (16,)
DISCLAIMER = (
    "An uncalibrated model, good for a ranking and no more: no figure here was measured on a GPU."
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--op", nargs="+", help="ops by name; default: all that Triton runs")
    parser.add_argument(
        "--agents", type=int, nargs="+", help=f"default: {AGENTS} for ops that mix, else {ALIKE[0]}"
    )
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--calibration", type=Path, help="figures that on_gpu.sh wrote")
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    if options.agents and min(options.agents) < 1:
        parser.error(f"--agents must be >= 1, got {min(options.agents)}")
    # kernels that were compiled before would say nothing of registers; knobs are read when Triton is imported
    with tempfile.TemporaryDirectory() as cache:
        for name in [n for n in os.environ if n.startswith("TRITON_") and not n.endswith("_PATH")]:
            del os.environ[name]
        os.environ["TRITON_CACHE_DIR"] = cache
        sys.path.insert(0, str(ROOT))
        try:
            rows = modeled(options)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            sys.exit(f"model: error: {error}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def modeled(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table row by row; the rows."""
    from benchmarks.modeling import ahead_of_time, calibration
    from benchmarks.modeling.estimate import Factors
    from benchmarks.modeling.launches import launches, mixes
    from benchmarks.modeling.machines import MACHINES
    from benchmarks.modeling.rows import row_of
    from benchmarks.reporting.model import header, line
    from fastsaddle.kernels.op import ops

    able = {n: op for n, op in ops().items() if n not in WITHOUT_ROWS and not op.is_layer}
    unknown = [name for name in options.op or () if name not in able]
    if unknown:
        raise ValueError(f"--op must be of {', '.join(able)}, got {unknown[0]}")
    for target in options.target:
        if reason := ahead_of_time.missing(target):
            raise ValueError(reason)
    measured = None
    if options.calibration or KEPT.exists():
        measured = calibration.read(options.calibration or KEPT)
    calibrated_on = {measured.machine.name: measured.device} if measured else {}
    if measured:
        print(
            f"Estimates with a star are calibrated on {measured.device} ({measured.versions}): two factors of the "
            f"model were chosen by {len(measured.percents)} figures measured there. The others:"
        )
    print(f"{DISCLAIMER}\n\n{header()}", flush=True)
    rows = []
    for target in options.target:
        machines = [m for m in MACHINES if m.target == target]
        factors = {m.name: Factors() for m in machines}
        if measured and measured.machine in machines:
            alike = {
                (name, agents): launches(able[name], None, agents, target)[0]
                for name, agents in calibration.ROWS
            }
            factors[measured.machine.name] = measured.fitted(alike)
        for name in options.op or able:
            for agents in options.agents or (AGENTS if mixes(able[name]) else ALIKE):
                found = launches(able[name], None, agents, target)
                whole = sum(launch.floor for launch in found)
                for launch in found:
                    row = row_of(name, agents, launch, whole, machines, factors, calibrated_on)
                    rows.append(row)
                    print(line(row), flush=True)
    return rows


if __name__ == "__main__":
    main()
