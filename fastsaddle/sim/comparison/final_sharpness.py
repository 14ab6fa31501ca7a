"""How sharp the minimum is that a finished run has found, measured at its consensus model."""

import json

from torch.nn import functional as F

from fastsaddle import sharpness
from fastsaddle.sim.batch_statistics import reestimate
from fastsaddle.sim.checkpoint import write_synced
from fastsaddle.sim.job import Job

SHARPNESS = "sharpness.json"
# training samples, spread evenly over the file's order
SAMPLES = 2000
RHO = 0.05


def measure_sharpness(job: Job) -> None:
    """Write sharpness.json: SAM's sharpness for a radius of 0.05 (whatever the run's own) and the largest eigenvalue
    of the Hessian, of the mean training loss of the consensus model on 2,000 samples."""
    dataset = job.simulation.dataset
    stride = max(1, len(dataset.train_labels) // SAMPLES)
    inputs, labels = (
        dataset.train_inputs[::stride][:SAMPLES],
        dataset.train_labels[::stride][:SAMPLES],
    )
    model = job.simulation.stack.consensus()
    reestimate(model, dataset.train_inputs)
    content = {
        "rho": RHO,
        "samples": len(labels),
        "sam_sharpness": sharpness.sam_sharpness(model, F.cross_entropy, inputs, labels, RHO),
        "top_eigenvalue": sharpness.top_eigenvalue(model, F.cross_entropy, inputs, labels),
    }
    write_synced(job.directory.path / SHARPNESS, json.dumps(content) + "\n")
