"""What `compare --sharpness` writes of a run, and what tables take of it."""

import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fastsaddle import sharpness
from fastsaddle.sim.comparison import results
from fastsaddle.sim.comparison.final_sharpness import measure_sharpness
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.run import job as jobs
from fastsaddle.sim.run.trainer import run

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(path: Path, seed: int) -> jobs.Job:
    """A short run on the digits."""
    job = jobs.start(
        TrainConfig(
            algorithm="dsgd", agents=5, batch_size=8, steps=20, seed=seed, threads=1, out=path
        )
    )
    with closing(job.directory):
        run(job, [], lambda: False)
    return job


def measured(job: jobs.Job) -> dict[str, Any]:
    measure_sharpness(job)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = (job.directory.path / "sharpness.json").read_text()
    return json.loads(text, parse_constant=refuse)


def test_a_run_with_agents_apart(tmp_path: Path, seed: int) -> None:
    job = trained(tmp_path / "run", seed)
    before = job.simulation.stack.x.clone()
    found = measured(job)
    assert torch.equal(job.simulation.stack.x, before)
    stack, data = job.simulation.stack, job.simulation.dataset
    inputs, labels = data.train_inputs, data.train_labels
    assert 1000 < len(labels) < 2000
    rise = sharpness.sam_sharpness(stack.consensus(), F.cross_entropy, inputs, labels, rho=0.05)
    assert found["sam_sharpness"] == rise and found["rho"] == 0.05
    more = sharpness.trace(stack.consensus(), F.cross_entropy, inputs, labels, 60, seed=seed)
    apart = abs(found["hessian_trace"] - more.estimate)
    assert apart < 6 * math.hypot(found["hessian_trace_error"], more.standard_error)
    assert found["samples"] == len(labels) and found["probes"] == 10
    kept = slice(None, None, len(labels) // 500)
    valley = sharpness.mean_valley(
        stack, F.cross_entropy, inputs[kept][:500], labels[kept][:500], tolerance=1e-5
    )
    assert found["mean_valley"] == pytest.approx(valley.mean, rel=0.01)
    assert found["valley_samples"] == 500 and found["kappa"] == 2


def test_a_run_whose_agents_agree_has_no_valley(tmp_path: Path, seed: int) -> None:
    job = trained(tmp_path / "run", seed)
    x = job.simulation.stack.x
    x[1:] = x[0] * (1 + 1e-7)
    found = measured(job)
    assert "mean_valley" not in found and found["hessian_trace"] is not None


def test_what_is_not_finite_is_null(tmp_path: Path, seed: int) -> None:
    job = trained(tmp_path / "run", seed)
    job.simulation.stack.x[0] = math.nan
    found = measured(job)
    assert found["sam_sharpness"] is None and found["hessian_trace"] is None
    assert "mean_valley" not in found


def test_tables_take_what_is_there() -> None:
    rows = [{"step": 3, "consensus_accuracy": 0.5}]
    old = {"rho": 0.05, "samples": 7, "sam_sharpness": 0.25, "top_eigenvalue": 8.0}
    found = results.measures(rows, 3, old)
    assert found["top_eigenvalue"] == 8 and found["sam_sharpness"] == 0.25
    assert not {"hessian_trace", "mean_valley"} & set(found)
    found = results.measures(rows, 3, {**old, "hessian_trace": 31.0, "mean_valley": None})
    assert found["hessian_trace"] == 31 and "mean_valley" not in found
    titles = {name: title for name, title, *_ in results.MEASURES}
    assert titles["hessian_trace"] == "Hessian trace" and titles["mean_valley"] == "mean valley"
