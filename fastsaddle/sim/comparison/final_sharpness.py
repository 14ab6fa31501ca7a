"""How sharp the minimum is that a finished run has found, measured at its consensus model."""

import json
import math

from torch import Tensor, nn
from torch.nn import functional as F

from fastsaddle import sharpness
from fastsaddle.agents import AgentStack
from fastsaddle.metrics import consensus_distance
from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.run.batch_statistics import reestimate
from fastsaddle.sim.run.job import Job
from fastsaddle.sim.run.whole_files import write_synced

SHARPNESS = "sharpness.json"
# training samples, spread evenly over the file's order; fewer for the valley, which is sought for every agent
SAMPLES, VALLEY_SAMPLES = 2000, 500
RHO = 0.05
# with 2,000 samples and 16 LeNet-5s of 0.4 s a Hessian product: 5 s for the trace, 3 s for the valley
PROBES = 10
KAPPA, TOLERANCE = 2.0, 0.01
# relative to the length of all parameters: agents nearer to each other differ by rounding
ROUNDING = 1e-6


def measure_sharpness(job: Job) -> None:
    """Write sharpness.json, of the mean training loss of the consensus model on 2,000 samples.

    SAM's sharpness is for a radius of 0.05 (whatever the run's own), the Hessian's trace from 10 probes. The mean
    valley, on 500 samples and within 1 percent, is there where agents are apart. What is not finite is null.
    """
    dataset, stack = job.simulation.dataset, job.simulation.stack
    model = job.simulation.consensus()
    reestimate(model, dataset.train)
    inputs, labels = _spread(dataset, SAMPLES)
    data = model, F.cross_entropy, inputs, labels
    trace = sharpness.trace(*data, PROBES)
    content = {
        "rho": RHO,
        "samples": len(labels),
        "sam_sharpness": sharpness.sam_sharpness(*data, RHO),
        "top_eigenvalue": sharpness.top_eigenvalue(*data),
        "probes": PROBES,
        "hessian_trace": trace.estimate,
        "hessian_trace_error": trace.standard_error,
        **_valley(stack, model, dataset),
    }
    finite = {name: value if math.isfinite(value) else None for name, value in content.items()}
    write_synced(job.directory.path / SHARPNESS, json.dumps(finite) + "\n")


def _spread(dataset: Dataset, count: int) -> tuple[Tensor, Tensor]:
    stride = max(1, len(dataset.train_labels) // count)
    chosen = slice(0, stride * count, stride)
    return dataset.train[chosen], dataset.train_labels[chosen]


def _valley(stack: AgentStack, model: nn.Module, dataset: Dataset) -> dict[str, float]:
    """The mean valley around the consensus model; nothing where agents agree or the loss there is not a number > 0."""
    x = stack.x
    if consensus_distance(x) <= ROUNDING * float(x.norm()) / math.sqrt(len(x)):
        return {}
    inputs, labels = _spread(dataset, VALLEY_SAMPLES)
    data = F.cross_entropy, inputs, labels
    if not 0 < sharpness.mean_loss(model, *data) < math.inf:
        return {}
    found = sharpness.mean_valley(stack, *data, KAPPA, tolerance=TOLERANCE, center=model)
    return {"kappa": KAPPA, "valley_samples": len(labels), "mean_valley": found.mean}
