"""`fastsaddle completion`: what a shell needs to complete commands and options."""

from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from typing import Any, Literal

import tyro

from fastsaddle.sim.commands.export import ExportOptions
from fastsaddle.sim.commands.memory import MemoryQuestion
from fastsaddle.sim.commands.report import ReportOptions
from fastsaddle.sim.commands.reproduce import ReproduceOptions
from fastsaddle.sim.comparison.options import CompareOptions
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.help import with_help


@with_help
@dataclass(frozen=True)
class CompletionOptions:
    """Print a script that lets a shell complete commands and options of fastsaddle.

    For bash, `fastsaddle completion bash > ~/.local/share/bash-completion/completions/fastsaddle`; for zsh,
    `fastsaddle completion zsh > ~/.zfunc/_fastsaddle`, where ~/.zfunc is in fpath before compinit.
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """Whose script."""


# of a comparison every option of a run is one
OPTIONS: dict[str, Callable[..., Any]] = {
    "train": TrainConfig,
    "compare": make_dataclass("Compare", [], bases=(CompareOptions, TrainConfig), frozen=True),
    "report": ReportOptions,
    "plan": TrainConfig,
    "export": ExportOptions,
    "reproduce": ReproduceOptions,
    "info": MemoryQuestion,
    "completion": CompletionOptions,
}


def main(arguments: list[str]) -> int:
    """Print the script."""
    shell = tyro.cli(CompletionOptions, args=arguments, prog="fastsaddle completion").shell
    words = ["--tyro-print-completion", shell]
    try:
        tyro.extras.subcommand_cli_from_dict(OPTIONS, prog="fastsaddle", args=words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0
