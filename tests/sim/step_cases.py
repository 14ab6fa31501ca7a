"""Runs whose steps are alike, for tests of steps in a graph: methods, random images, a network with BatchNorm."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastsaddle as fs
from fastsaddle.sim.run.simulation import Simulation

STEPS = 8
NETWORK = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, shape, classes):
        body = nn.Conv2d(shape[0], 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)
        super().__init__(*body, nn.Flatten(), nn.LazyLinear(classes))
        self(__import__("torch").zeros(2, *shape))
"""
METHODS: dict[str, dict[str, Any]] = {
    "dsgd": {},
    "dsgdm": {"nesterov": True},
    "qgm": {"consensus_step": 0.9},
    "qg-adam": {"lr": 0.01},
    "dsaddle": {},
    "qsaddle": {"adaptive": True, "rho": 0.4},
    "qsaddle, momentum": {"sam": "momentum", "rho": 0.5},
    "qsaddle, 8 bits": {"compressor": "stochastic-quantizer:8"},
    "qgm, 4 bits, running sum": {"compressor": "stochastic-quantizer:4", "running_sum": True},
    "dsgd, sign": {
        "compressor": "sign",
        "gossip_order": "mix-then-compress",
        "consensus_step": 0.4,
    },
    "qgm, top-k": {"compressor": "top-k:0.3", "adaptive_gossip": True, "consensus_step": 0.2},
    "qsaddle, contrastive": {"ccl_model": 0.1},
    "dsaddle, esam": {"sam": "esam:0.6:1", "rho": 0.3},
    "qsaddle, esam": {"sam": "esam:0.6:0.5"},
    "d2, sam": {"gradient": "sam", "consensus_step": 0.8},
    "ngm": {},
    "ngm, 8 bits": {"compressor": "stochastic-quantizer:8", "topology": "star"},
    "nsaddle": {"cross_gradients": "model", "mixed_self_gradient": True},
    "gradient-tracking": {"momentum": 0.5},
    "momentum-tracking": {},
    "d2": {"consensus_step": 0.8},
    "relay-sgd": {"topology": "chain"},
    "qsaddle, one peer": {"topology": "one-peer-exponential"},
    "gradient-tracking, base graph": {"topology": "base-graph:2"},
    "qgm, base graph, 8 bits": {
        "topology": "base-graph:1",
        "compressor": "stochastic-quantizer:8",
        "consensus_step": 0.8,
    },
    "ngm, base graph": {"topology": "base-graph:1", "consensus_step": 0.7},
    "dsgd, push-sum": {"push_sum": True, "topology": f"{__name__}:turning"},
    "qsaddle, push-sum": {"push_sum": True, "topology": f"{__name__}:turning"},
    "push-pull, turning": {"topology": f"{__name__}:turning"},
}


def turning(agents: int) -> fs.Schedule:
    """Three digraphs whose columns sum to one: agents send to one behind them, unlike shares in each round."""
    draw = np.random.default_rng(agents)
    graphs = []
    for hop in (1, 2, 1):
        W = np.eye(agents) * draw.uniform(0.5, 1, agents)
        W += np.roll(np.eye(agents), hop, 0) * draw.uniform(0.2, 1, agents)
        W[0, hop + 1] += 0.5
        graphs.append(fs.topology.from_matrix(W / W.sum(0), directed=True, allow_disconnected=True))
    return fs.topology.sequence(graphs)


def options_of(folder: Path, seed: int, device: str) -> dict[str, Any]:
    """Images drawn at random, and a network with BatchNorm."""
    random = np.random.default_rng(seed)
    x = random.integers(0, 256, (90, 3, 9, 8), dtype=np.uint8)
    np.savez(folder / "images.npz", x=x, y=np.arange(90) % 4)
    (folder / "net.py").write_text(NETWORK)
    return {
        **{"dataset": "npz", "data_dir": folder / "images.npz", "augment": "crop-flip"},
        **{"agents": 5, "batch_size": 6, "steps": STEPS, "seed": seed % 1000, "device": device},
        **{"schedule": "cosine", "warmup": 0.3, "weight_decay": 0.01, "alpha": 1.0},
        "model": f"{folder / 'net.py'}:Net",
    }


def take(made: Simulation, first: int, end: int) -> list[Tensor]:
    return [made.step(step) for step in range(first, end)]


def assert_same(a: Simulation, b: Simulation) -> None:
    ours, theirs = a.tensors(), b.tensors()
    assert ours.keys() == theirs.keys()
    ours |= {n: getattr(a.optimizer, n) for n in ("rounds", "squares", "skipped")}
    theirs |= {n: getattr(b.optimizer, n) for n in ("rounds", "squares", "skipped")}
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert a.counters() == b.counters() and a.evaluations == b.evaluations
