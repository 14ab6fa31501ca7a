"""A run that was trained, as an object: its metrics, its curves, its models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import nn

import fastsaddle
from fastsaddle.sim.api import shown
from fastsaddle.sim.api.split import Split
from fastsaddle.sim.api.tables import table
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.data.agent_data import AgentData
from fastsaddle.sim.report import runs
from fastsaddle.sim.run import plots, tensor_files, trained
from fastsaddle.sim.run.devices import find_device
from fastsaddle.sim.run.labels import Labels, label, of_agents
from fastsaddle.sim.run.progress import number, percent
from fastsaddle.sim.run.run_dir import CONFIG
from fastsaddle.sim.run.summary import headline, split_name


class Run:
    """What a run has written to its directory. It is read anew whenever it is asked for, so a run may be under way.

    Args:
        directory: of a run, `runs/NAME`.

    Raises:
        ValueError: the directory is none of a run, or a file in it is damaged.

    Example:
        >>> import fastsaddle as fs
        >>> run = fs.sim.train(agents=4, steps=4, out="example", quiet=True)
        >>> model = run.model()  # the agents' mean, a plain module
        >>> run.options.agents
        4
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        """Where the run lies."""
        if not (self.directory / CONFIG).exists():
            raise ValueError(f"{self.directory} is not a run: it has no {CONFIG}")
        self._read()

    def _read(self) -> runs.Run:
        return runs.read(self.directory)

    @property
    def options(self) -> TrainConfig:
        """Every option with its resolved value."""
        return self._read().config

    @property
    def record(self) -> dict[str, Any]:
        """The whole content of config.json, with options, versions, machine and graph."""
        return self._read().record

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one an evaluation; docs/command-line.md explains their keys."""
        return self._read().rows

    @property
    def metrics(self) -> Any:
        """`rows` as a pandas DataFrame indexed by step, or as they are where pandas is not installed."""
        return table(self.rows, "step")

    @property
    def split(self) -> Split:
        """The training samples of each class at each agent. Raises ValueError where they have not been written."""
        found = self._read()
        if found.partition is None:
            raise ValueError(f"{self.directory} has no {runs.PARTITION}")
        counts, names = np.array(found.partition["counts"]), tuple(found.partition["classes"])
        return Split(split_name(found.config, Labels([found.config])), counts, names)

    @property
    def is_finished(self) -> bool:
        """Whether the last step has been evaluated."""
        return self._read().is_finished

    @property
    def state(self) -> str:
        """How far the run is, in words."""
        return self._read().state

    def plot(self) -> Figure:
        """Learning curves: accuracies, consensus distance and, with a compressor, what it lost.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            ValueError: nothing has been evaluated yet.
        """
        found = self._read()
        if not found.rows:
            raise ValueError(f"{self.directory} has no evaluation yet")
        return shown.displayed(_curves(found))

    def model(self, agent: int | None = None, data_dir: str | Path | None = None) -> nn.Module:
        """A trained model of the last checkpoint, a plain module in evaluation mode.

        The consensus has the bits that the run itself evaluated. Statistics of BatchNorm are taken anew for it, from
        training data.

        Args:
            agent: whose model, from 0 on; None is the consensus of all, which for `easgd` is its center.
            data_dir: the folder of the data, if they were moved. The data give the shapes of inputs and outputs.

        Raises:
            ValueError: no whole checkpoint, no such agent, data that are missing or others.
        """
        return self._trained(agent, data_dir)[0]

    def export(
        self, out: str | Path, agent: int | None = None, data_dir: str | Path | None = None
    ) -> int:
        """Write a trained model's state_dict as a file, whole or not at all.

        `module.load_state_dict(safetensors.torch.load_file(out))` reads it into the plain module.

        Args:
            out: a .safetensors file; one that is there is replaced.
            agent: whose model, from 0 on; None is the consensus of all.
            data_dir: the folder of the data, if they were moved.

        Returns:
            The step of the checkpoint.

        Raises:
            ValueError: as `model`.
            OSError: the file cannot be written.
        """
        module, step = self._trained(agent, data_dir)
        # a tensor under two names would be refused, and views would be written whole
        tensors = {name: value.clone().contiguous() for name, value in module.state_dict().items()}
        whose = "consensus" if agent is None else f"agent {agent}"
        about = {"run": self._read().name, "step": str(step), "model": whose}
        tensor_files.save(Path(out), tensors, {**about, "fastsaddle": fastsaddle.__version__})
        return step

    def _trained(self, agent: int | None, data_dir: str | Path | None) -> tuple[nn.Module, int]:
        """A model of the last checkpoint, and its step."""
        config = self.options
        path, tensors, step = trained.latest(self.directory, config.agents)
        folder = config.data_dir if data_dir is None else Path(data_dir)
        config = replace(config, device="cpu", data_dir=folder)
        dataset = AgentData(config, find_device("cpu")).dataset
        if agent is None:
            return trained.consensus(config, path, tensors, dataset).eval(), step
        return trained.agent(config, path, tensors, dataset, agent).eval(), step

    def report(self, out: str | Path | None = None, surface: bool = True) -> Path:
        """Write the run's HTML page, as `fastsaddle report` does.

        Args:
            out: the page; None is report.html in the run's directory.
            surface: whether the loss surface is drawn, which takes a while.

        Returns:
            Where the page is.
        """
        return write_report(self.directory, out, surface)

    def __repr__(self) -> str:
        found = self._read()
        return f"<Run {self.directory}: {headline(found.config)}; {found.state}{_result(found)}>"

    def _repr_html_(self) -> str:
        found = self._read()
        config, labels = found.config, Labels([found.config])
        facts = [
            ("method", str(labels.of("algorithm", config.algorithm))),
            ("model", str(label(config.model))),
            ("graph", f"{label(config.topology)}, {of_agents(config.agents)}"),
            ("state", found.state),
        ]
        if not found.rows:
            return shown.facts(found.name, facts)
        last = found.rows[-1]
        facts += [
            ("consensus accuracy", percent(last["consensus_accuracy"])),
            (
                "agents' mean, worst",
                f"{percent(last['mean_accuracy'])}, {percent(last['worst_accuracy'])}",
            ),
            ("consensus distance", number(last["consensus_distance"])),
            ("sent per agent", f"{last['bytes_sent'] / config.agents / 1e6:.2f} MB"),
        ]
        words = f"learning curves of {found.name}"
        return shown.facts(found.name, facts) + shown.picture(_curves(found), words)


def write_report(directory: Path, out: str | Path | None, surface: bool) -> Path:
    """Write the HTML page of a run or a comparison; where it is."""
    # imports what draws
    from fastsaddle.sim.commands.report import NAME
    from fastsaddle.sim.report.page import write

    return write([directory], Path(out) if out is not None else directory / NAME, surface=surface)


def _curves(found: runs.Run) -> Figure:
    return plots.curves(found.rows, f"{found.name}\n{headline(found.config)}")


def _result(found: runs.Run) -> str:
    if not found.rows:
        return ""
    return f", consensus accuracy {percent(found.rows[-1]['consensus_accuracy'])}"
