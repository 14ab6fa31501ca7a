"""What parts of an optimizer keep from step to step, declared in one way."""

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class State:
    """One thing that a gradient, a rule or a communicator keeps between steps.

    Saving, loading, copies, checkpoints and `fastsaddle info --model` go by these declarations.

    Attributes:
        name: its key in `optimizer.state[p]` and in `optimizer.flat_state` (in the parameter groups for "group").
        rows: who has one: "agents", every agent of this process; "one", all of them together; "halo", the agents here
            and the foreign ones that they hear.
        width: "columns", a whole row as long as the model; "scalar", one number on the device, for each agent and
            parameter group (for the whole optimizer there is `ROUND` alone); "agent", one for each agent, whatever the
            group; "group", a Python number in the parameter group, for what is counted on the host.
        dtype: of tensors; "state" stands for the optimizer's `state_dtype`.
        initial: "zero"; "one", of width "agent"; or "mean", the agents' mean model, of rows "one".
    """

    name: str
    rows: Literal["agents", "one", "halo"] = "agents"
    width: Literal["columns", "scalar", "agent", "group"] = "columns"
    dtype: torch.dtype | Literal["state"] = torch.float32
    initial: Literal["zero", "one", "mean"] = "zero"

    @property
    def is_per_agent(self) -> bool:
        """Whether it is a number for each agent, and maybe group."""
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
