"""Agent after agent, each a plain module; all threads share each operation."""

from fastsaddle.sim.engines._agent_loop import AgentLoop


class Loop(AgentLoop):
    """Runs every network that a plain module can be."""

    side_by_side = False
