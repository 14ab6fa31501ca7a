"""RelaySum on a tree as lists of rows to sum: what each message and each average is made of.

Rows lie in blocks of one an agent: block 0 holds the agents' models, block k what each agent's k-th neighbor sent.
Vogels et al. 2021 (arXiv:2110.04175), equation 3 and RelaySum/Model.
"""

import torch

# for each agent its neighbors, ascending
Neighbors = tuple[tuple[int, ...], ...]


def message_lists(neighbors: Neighbors) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources int32 and weights float32 `[most * agents, most]`: what agents send to their k-th neighbor, in block k.

    `most` is the largest degree. Agent j sends its model and what the others sent to j. A row that nobody is sent is
    zero.
    """
    agents, most = len(neighbors), max(map(len, neighbors))
    sources = torch.full((most * agents, most), -1, dtype=torch.int32, device="cpu")
    weights = torch.zeros(most * agents, most, dtype=torch.float32, device="cpu")
    own = torch.arange(agents, (most + 1) * agents, dtype=torch.int32, device="cpu")
    sources[:, :1] = own[:, None]
    for j, near in enumerate(neighbors):
        for k, i in enumerate(near):
            relayed = [m * agents + j for m, other in enumerate(near, 1) if other != i]
            sources[k * agents + j, : 1 + len(relayed)] = torch.tensor([j, *relayed], device="cpu")
            weights[k * agents + j, : 1 + len(relayed)] = 1.0
    return sources, weights


def average_lists(neighbors: Neighbors) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources int32 `[agents, most + 1]` of every agent's average, and weights float32 `[steps, agents, most + 1]`.

    The weights of step t count how many models have arrived by then; from the last step on they stay.
    """
    agents, most = len(neighbors), max(map(len, neighbors))
    sources = torch.full((agents, most + 1), -1, dtype=torch.int32, device="cpu")
    counts = terms(neighbors)
    weights = torch.zeros(len(counts), agents, most + 1, dtype=torch.float32, device="cpu")
    for i, near in enumerate(neighbors):
        sources[i, : 1 + len(near)] = torch.arange(1 + len(near), device="cpu") * agents + i
        weights[:, i, 1 : 1 + len(near)] = 1 / agents
        for step, arrived in enumerate(counts):
            weights[step, i, 0] = (agents - sum(arrived[j, i] for j in near)) / agents
    return sources, weights


def messages_of(
    sources: torch.Tensor, weights: torch.Tensor, agents: int, here: range
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of what `message_lists` gave for `agents`, the messages of those that are here, among rows of theirs alone."""
    rows = [k * agents + j for k in range(len(sources) // agents) for j in here]
    index = torch.tensor(rows, dtype=torch.int64, device="cpu")
    return _among(sources[index], agents, here), weights[index]


def of_agents(
    sources: torch.Tensor, weights: torch.Tensor, here: range
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of what `average_lists` gave, the averages of the agents that are here, among rows of theirs alone."""
    part = slice(here.start, here.stop)
    return _among(sources[part], len(sources), here), weights[:, part].contiguous()


def _among(sources: torch.Tensor, agents: int, here: range) -> torch.Tensor:
    """Row j of block k of all agents, as a row of block k of those that are here; -1 stays."""
    block, agent = sources.div(agents, rounding_mode="floor"), sources.remainder(agents)
    return torch.where(sources < 0, sources, block * len(here) + agent - here.start).contiguous()


def terms(neighbors: Neighbors) -> list[dict[tuple[int, int], int]]:
    """For each step until they stay: how many models the message from j to i is the sum of, by (j, i)."""
    directed = [(j, i) for i, near in enumerate(neighbors) for j in near]
    steps = [dict.fromkeys(directed, 1)]
    while True:
        last = steps[-1]
        more = {(j, i): 1 + sum(last[k, j] for k in neighbors[j] if k != i) for j, i in directed}
        if more == last:
            return steps
        steps.append(more)
