"""Relayed sums: partial sums travel along a tree, whose ends all agents average exactly."""

from __future__ import annotations

import torch

from fastsaddle.comm.base import Communicator, Round
from fastsaddle.comm.lists import Lists
from fastsaddle.graphs.needs import GraphNeeds
from fastsaddle.graphs.relay_lists import (
    Neighbors,
    average_lists,
    message_lists,
    messages_of,
    of_agents,
)
from fastsaddle.kernels.weighted_sum import weighted_sum
from fastsaddle.optimizer.hyperparameters import Flag, Range
from fastsaddle.optimizer.rows import MOMENTUM, Rows
from fastsaddle.optimizer.state import ROUND, State
from fastsaddle.rules.tracking import Tracking


class Relay(Tracking):
    """RelaySum/Model: models are relayed along a tree; every agent holds an exact average of older models.

        h_i    = x_i - lr sgd(g_i)
        m_ij   = h_i + sum_{k != j} m_ki of the step before        sent to each neighbor j, with the number of its terms
        x_i    = ((n - sum_j n_ji) h_i + sum_j m_ji) / n

    Vogels et al. 2021 (arXiv:2110.04175), RelaySum/Model as in the authors' description: what has not arrived yet
    counts as h_i (their production code takes the initial model). The average is complete after
    as many steps as the diameter of the tree. The number of terms follows from the step, so that only one row is sent
    to each neighbor. State: `relay_1` ... (what arrived from each neighbor, ascending),
    `momentum_buffer`, `step`.

    Args:
        momentum: beta in [0, 1), of the local step: heavy ball, or Nesterov's form.
        nesterov: use Nesterov's form instead of heavy ball.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(), rule=fs.rules.Relay(), communicator=fs.comm.Gossip("chain")
        ... )
        >>> [*optimizer.flat_state]
        ['relay_1', 'relay_2', 'momentum_buffer']
    """

    hyperparameters = {"momentum": Range(0, 1, default=0.0), "nesterov": Flag()}
    needs = GraphNeeds(tree=True)
    passing = 1

    def __init__(self, momentum: float | torch.Tensor = 0.0, nesterov: bool = False) -> None:
        super().__init__(momentum=momentum, nesterov=nesterov)

    def refuses(self, communicator: Communicator) -> str | None:
        if communicator.is_compressed:
            return (
                f"{self.name} takes no compressor: errors would add up in the sums that are relayed"
            )
        refused = super().refuses(communicator)
        if refused is None and not communicator.has_graph:
            refused = f"{self.name} needs a tree, {type(communicator).__name__} has no graph"
        return refused

    def states_with(self, communicator: Communicator) -> tuple[State, ...]:
        most = max(map(len, neighbors_of(communicator)))
        relays = (State(f"relay_{k}") for k in range(1, most + 1))
        return (*relays, State(MOMENTUM), ROUND)

    def step(self, rows: Rows, comm: Round) -> None:
        device = rows.x.device
        near = neighbors_of(comm.communicator)
        lists = rows.once("messages", lambda: arriving(near, comm, device))
        here = range(rows.first_agent, rows.first_agent + rows.agents)
        sources, shares = rows.once(
            "averages", lambda: [t.to(device) for t in of_agents(*average_lists(near), here)]
        )
        most, agents = max(map(len, near)), rows.agents
        # this step's models, then what arrived from the first neighbor of each agent, and so on
        arrived = rows.block(1 + most)
        arrived[:agents] = rows.descended(rows.x, rows.g)
        if most:
            messages = torch.empty_like(arrived[agents:])
            weighted_sum(arrived, messages, *lists)
            delivered = comm.deliver(messages)
            if delivered is not messages:
                delivered = delivered.index_select(0, heard_rows(comm.lists(device)))
            arrived[agents:] = delivered
        step = rows.round.clamp(max=len(shares) - 1).reshape(1)
        weighted_sum(arrived, rows.x, sources, shares.index_select(0, step)[0])


def arriving(near: Neighbors, comm: Round, device: torch.device) -> list[torch.Tensor]:
    """Sources and weights of all messages: in the order that they arrive in where all agents are here."""
    communicator = comm.communicator
    here = range(communicator.first_agent, communicator.first_agent + (communicator.agents or 1))
    lists = [t.to(device) for t in messages_of(*message_lists(near), len(near), here)]
    if communicator.all_agents == communicator.agents and lists[0].numel():
        lists = [t.index_select(0, heard_rows(comm.lists(device))) for t in lists]
    return lists


def heard_rows(lists: Lists) -> torch.Tensor:
    """For each slot and agent the row of what was delivered that it hears; its own message, zero, where nobody is."""
    own = torch.arange(lists.incoming.numel(), device=lists.incoming.device)
    incoming = lists.incoming.T.reshape(-1).long()
    return torch.where(incoming < 0, own, incoming)


def neighbors_of(communicator: Communicator) -> Neighbors:
    """Each agent's neighbors, ascending; of a single agent none."""
    return ((),) if communicator.topology is None else communicator.topology.neighbors
