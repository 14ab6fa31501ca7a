"""The command `fastsaddle`: train and info.

Only `train` needs the packages of the [sim] extra, so they are imported when it is called. tyro
reads its options from one dataclass, `fastsaddle.sim.config.TrainConfig`.
"""

import argparse
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import fastsaddle
from fastsaddle.optimizer import NonFiniteGradientError
from fastsaddle.sim.info import report

if TYPE_CHECKING:
    from fastsaddle.sim.config import TrainConfig

# import name -> name for pip
SIMULATOR_NEEDS = {
    "matplotlib": "matplotlib",
    "rich": "rich",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "tyro": "tyro",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0, 2 for wrong options, 128 + n after signal n."""
    parser = argparse.ArgumentParser(
        prog="fastsaddle",
        description="Decentralized, sharpness-aware deep learning: many agents on one machine.",
        epilog="fastsaddle train --help lists the options of a training run.",
    )
    parser.add_argument(
        "--version", action="version", version=f"fastsaddle {fastsaddle.__version__}"
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    commands.add_parser("train", help="train many agents on real data", add_help=False)
    commands.add_parser("info", help="show versions, devices, backends and copy bandwidth")
    known, rest = parser.parse_known_args(arguments)
    if known.command == "train":
        return _train(rest)
    if rest:
        parser.error(f"info takes no options, got {' '.join(rest)}")
    return _info()


def _info() -> int:
    print(report(_missing()))
    return 0


def _train(arguments: list[str]) -> int:
    missing = _missing()
    if missing:
        return _fail(f"train needs {', '.join(missing)}: pip install 'fastsaddle[sim]'")
    import tyro

    from fastsaddle.sim.config import TrainConfig

    config = tyro.cli(TrainConfig, args=arguments, prog="fastsaddle train")
    others = [a for a in arguments if a.startswith("--") and a.split("=")[0] != "--resume"]
    if config.resume is not None and others:
        return _fail(f"--resume takes no other option (config.json has them), got {others[0]}")
    try:
        return _run(config)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _run(config: "TrainConfig") -> int:
    from rich.console import Console

    from fastsaddle.sim import job as jobs
    from fastsaddle.sim.run_dir import RunDirectory
    from fastsaddle.sim.summary import resume_command
    from fastsaddle.sim.trainer import train

    try:
        if config.resume is None:
            job = jobs.start(config)
        else:
            directory = RunDirectory(config.resume)
            if jobs.is_finished(directory):
                steps = directory.config["steps"]
                print(f"{config.resume} is finished: all {steps} steps are done")
                return 0
            job = jobs.go_on(directory)
    except (ValueError, OSError) as error:
        return _fail(str(error))
    try:
        return train(job, Console())
    except NonFiniteGradientError as error:
        return _fail(f"training diverged at step {job.step}, a smaller --lr may help: {error}", 1)
    except OSError as error:
        way = f"the checkpoint before is whole, go on with: {resume_command(job)}"
        return _fail(f"{error}; {way}", 1)


def _missing() -> list[str]:
    return [package for name, package in SIMULATOR_NEEDS.items() if find_spec(name) is None]


def _fail(message: str, status: int = 2) -> int:
    print(f"fastsaddle: error: {message}", file=sys.stderr)
    return status
