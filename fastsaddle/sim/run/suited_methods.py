"""Which built-in methods a graph suits: each is made on it, with one number an agent, and says so itself."""

import warnings
from typing import Any

import torch
from torch.nn import Parameter

from fastsaddle.graphs.schedule import Schedule
from fastsaddle.sim import methods
from fastsaddle.sim.run import composed

# agents up to whom all methods are asked: some look at many rounds, and at eigenvalues
MOST_ASKED = 128
# what helps a method that refuses a graph -> as options spell it
WAYS: dict[str, dict[str, Any]] = {
    "--push-sum": {"push_sum": True},
    "--consensus-step 0.5": {"consensus_step": 0.5},
}


def suits(algorithm: str, graph: Schedule, **options: Any) -> bool:
    """Whether a method with these options of its constructor takes a graph."""
    rows = [Parameter(torch.zeros(graph.agents, 1))]
    given = {"agents": graph.agents, "lr": 0.1, "topology": graph, "gossip_every": 1, **options}
    with warnings.catch_warnings():
        # of what may be slow, not of what cannot be
        warnings.simplefilter("ignore")
        try:
            methods.build(algorithm, rows, composed.AUTO, "", **given)
        except ValueError:
            return False
    return True


def told(graph: Schedule) -> str:
    """The methods that take a graph as it is, and those that do so with a further option, in a line."""
    asked = methods.taking("topology")
    taking = [name for name in asked if suits(name, graph)]
    parts = [", ".join(taking) or "none as it is"]
    for way, options in WAYS.items():
        able = [
            name
            for name in asked
            if name not in taking
            and all(methods.takes(name, option) for option in options)
            and suits(name, graph, **options)
        ]
        if able:
            parts.append(f"with {way} {', '.join(able)}")
    return f"methods that take it: {'; '.join(parts)}"
