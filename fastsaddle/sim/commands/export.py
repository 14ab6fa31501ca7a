"""`fastsaddle export`: a trained model of a run as a file of tensors, for plain torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastsaddle.sim.help import with_help

WHOSE = tyro.conf.create_mutex_group(required=True)


@with_help
@dataclass(frozen=True)
class ExportOptions:
    """Write a trained model of a run's last checkpoint as a state_dict, which the plain module loads.

    `fastsaddle export runs/NAME --consensus --out model.safetensors`, and then in Python
    `module.load_state_dict(safetensors.torch.load_file("model.safetensors"))`.
    """

    run: tyro.conf.Positional[Path]
    """The run's directory."""

    out: Path
    """The file, .safetensors; one that is there is replaced."""

    consensus: Annotated[bool, tyro.conf.FlagCreatePairsOff, WHOSE] = False
    """The model that stands for all agents: their mean, or the center that the method keeps."""

    agent: Annotated[int | None, WHOSE] = None
    """One agent's own model instead, from 0 on."""

    data_dir: Path | None = None
    """Where the data are now, if they moved: they give the shapes of inputs and outputs."""


def main(arguments: list[str]) -> int:
    """Read the command line and write the file. Raises ValueError or OSError for what cannot be."""
    options = tyro.cli(ExportOptions, args=arguments, prog="fastsaddle export")
    if options.out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got {options.out}")
    # imports what draws
    from fastsaddle.sim.api.run import Run

    step = Run(options.run).export(options.out, options.agent, options.data_dir)
    whose = "the consensus" if options.agent is None else f"agent {options.agent}"
    print(f"{options.out}: {whose} of {options.run} after step {step:,}")
    return 0
