"""Which built-in methods a graph suits: each is made on it, with one number an agent, and says so itself."""

from typing import Any

from fastsaddle.graphs.schedule import Schedule
from fastsaddle.sim import methods

# agents up to whom all methods are asked: some look at many rounds, and at eigenvalues
MOST_ASKED = 128
# what helps a method that refuses a graph -> as options spell it
WAYS: dict[str, dict[str, Any]] = {
    "--push-sum": {"push_sum": True},
    "--consensus-step 0.5": {"consensus_step": 0.5},
}


def suits(algorithm: str, graph: Schedule, **options: Any) -> bool:
    """Whether a method with these options of its constructor takes a graph."""
    given = {"lr": 0.1, "topology": graph, "gossip_every": 1, **options}
    try:
        methods.build_small(algorithm, graph.agents, **given)
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
