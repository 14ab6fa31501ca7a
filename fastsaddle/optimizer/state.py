"""What parts of an optimizer keep from step to step, declared in one way."""

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class State:
    """One thing that a gradient, a rule or a communicator keeps between steps.

    Saving, loading, copies, checkpoints and `fastsaddle info --model` go by these declarations.

    Args:
        name: its key in `optimizer.state[p]` and in `optimizer.flat_state` (for width "group", in the parameter
            groups).
        rows: who has one: "agents", every agent of this process; "one", all of them together; "halo", the agents here
            and those elsewhere that they hear.
        width: "columns", a row as long as the model; "scalar", one number on the device for each agent and parameter
            group (for the whole optimizer there is only `fs.rules.ROUND`); "agent", one number for each agent; "group",
            a Python number in the parameter group, for what is counted on the host.
        dtype: dtype of tensors; "state" is the optimizer's `state_dtype`.
        initial: "zero"; "one", of width "agent"; or "mean", the agents' mean model, of rows "one".

    Example:
        >>> import fastsaddle as fs
        >>> fs.rules.State("tracked").is_per_agent
        False
    """

    name: str
    rows: Literal["agents", "one", "halo"] = "agents"
    width: Literal["columns", "scalar", "agent", "group"] = "columns"
    dtype: torch.dtype | Literal["state"] = torch.float32
    initial: Literal["zero", "one", "mean"] = "zero"

    @property
    def is_per_agent(self) -> bool:
        """Whether it is one number for each agent, and possibly each group."""
        return self.width == "agent" or (self.width == "scalar" and self.rows != "one")


# steps done: declared by every part that draws or counts by it
ROUND = State("step", "one", "scalar", torch.int64)

# the name that a step's models have among the rows that it sends
MODELS = "x"


def copy_name(row: str, state: str) -> str:
    """The name of what a communicator keeps for one of the rows that a step sends: the models' names are plain."""
    if row == MODELS:
        return state
    return f"{row}_{state.removeprefix(f'{MODELS}_')}"
