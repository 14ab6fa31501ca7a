"""Relayed sums: partial sums travel along a tree, whose ends all agents average exactly."""

from __future__ import annotations

import torch

from fastsaddle.comm.base import Communicator, Round
from fastsaddle.graphs.needs import GraphNeeds
from fastsaddle.graphs.relay_lists import Neighbors, average_lists, message_lists
from fastsaddle.kernels.weighted_sum import weighted_sum
from fastsaddle.optimizer.hyperparameters import Flag, Range
from fastsaddle.optimizer.rows import MOMENTUM, Rows
from fastsaddle.optimizer.state import ROUND, State
from fastsaddle.rules.tracking import Tracking


class Relay(Tracking):
    """RelaySum/Model: after as many steps as the tree is wide, every agent holds an exact average of older models.

        h_i    = x_i - lr sgd(g_i)
        m_ij   = h_i + sum_{k != j} m_ki of the step before        sent to each neighbor j, with the number of its terms
        x_i    = ((n - sum_j n_ji) h_i + sum_j m_ji) / n

    Vogels et al. 2021 (arXiv:2110.04175), RelaySum/Model as in the authors' description: what has not arrived yet
    counts as h_i (their production code takes the initial model). The number of terms is known from the step, so that
    one row is sent to each neighbor. State: `relay_1` ... (what arrived from each neighbor, ascending),
    `momentum_buffer`, `step`.

    Args:
        momentum: beta in [0, 1), of the local step: heavy ball, or Nesterov's form.
        nesterov: use Nesterov's form.
    """

    hyperparameters = {"momentum": Range(0, 1, default=0.0), "nesterov": Flag()}
    needs = GraphNeeds(tree=True)

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
        lists = rows.once("messages", lambda: [t.to(device) for t in message_lists(near)])
        sources, shares = rows.once("averages", lambda: [t.to(device) for t in average_lists(near)])
        relays = [state for name, state in rows.states.items() if name.startswith("relay_")]
        h = rows.descended(rows.x, rows.g)
        arrived = torch.cat([h, *relays])
        if relays:
            messages = torch.empty_like(arrived[rows.agents :])
            weighted_sum(arrived, messages, *lists)
            sent = comm.deliver(messages)
            incoming = comm.lists(device).incoming
            for slot, relay in enumerate(relays):
                heard = incoming[:, slot]
                # a row that nobody sends to is its own zeros
                torch.index_select(sent, 0, heard.clamp(min=0), out=relay)
                relay.masked_fill_(heard[:, None] < 0, 0.0)
            torch.cat([h, *relays], out=arrived)
        step = rows.round.clamp(max=len(shares) - 1).reshape(1)
        weighted_sum(arrived, rows.x, sources, shares.index_select(0, step)[0])


def neighbors_of(communicator: Communicator) -> Neighbors:
    """Each agent's neighbors, ascending; of a single agent none."""
    return ((),) if communicator.topology is None else communicator.topology.neighbors
