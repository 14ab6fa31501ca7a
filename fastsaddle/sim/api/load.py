"""Open what a run or a comparison has written."""

from pathlib import Path

from fastsaddle.sim.api.comparison import Comparison
from fastsaddle.sim.api.run import Run
from fastsaddle.sim.report.runs import COMPARISON
from fastsaddle.sim.run.run_dir import CONFIG


def load(directory: str | Path) -> Run | Comparison:
    """The run or the comparison in a directory, which may be under way.

    Args:
        directory: what `fastsaddle train` or `compare`, or their functions, wrote.

    Raises:
        ValueError: it is neither, or a file in it is damaged.
    """
    if (Path(directory) / COMPARISON).exists():
        return Comparison(directory)
    if (Path(directory) / CONFIG).exists():
        return Run(directory)
    raise ValueError(
        f"{directory} is neither a run (it has no {CONFIG}) nor a comparison (it has no {COMPARISON})"
    )
