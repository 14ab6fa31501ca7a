"""Plans of drawn graphs and counts: what one end sends the other expects, and local lists say what global ones do."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsaddle.ranks.counts import owner_of
from fastsaddle.ranks.plan import Plan
from tests.ranks.graphs import counts_of, graphs

many = settings(max_examples=150, deadline=None)


@many
@given(st.data())
def test_both_ends_agree_and_local_lists_are_the_global_ones(data: Any) -> None:
    graph = data.draw(graphs(12))
    counts = data.draw(counts_of(graph.agents))
    gamma = data.draw(st.sampled_from([1.0, 0.5, 0.1]))
    plans = [Plan(graph, counts, rank) for rank in range(len(counts))]
    neighbors, weights = graph.mixing_lists(gamma)
    for rank, plan in enumerate(plans):
        assert [*plan.own] == [*range(*plan.span)] and len(plan.own) == counts[rank]
        assert {owner_of(counts, agent) for agent in plan.own} == {rank}
        assert {*plan.sends, *plan.receives, *plan.edges_out, *plan.edges_in} <= {
            *range(len(counts))
        } - {rank}
        for peer in range(len(counts)):
            other = plans[peer]
            assert plan.sends.get(peer, ()) == other.receives.get(rank, ())
            assert plan.edges_out.get(peer, ()) == other.edges_in.get(rank, ())
        # every row that is heard is somebody's send, rank by rank
        heard = [agent for agents in plan.receives.values() for agent in agents]
        assert tuple(heard) == plan.halo == tuple(sorted({*heard}))
        lists = plan.lists(gamma)
        everybody = torch.tensor([*plan.own, *plan.halo, -1])
        mine = slice(*plan.span)
        assert torch.equal(everybody[lists.neighbors.long()], neighbors[mine].long())
        assert torch.equal(lists.weights, weights[mine])
        hears = [j for j in range(graph.agents) if {*graph.neighbors[j]} & {*plan.own}]
        assert plan.hearers(rank) == [j for j in hears if j not in plan.own]
    assert torch.equal(torch.cat([plan.lists(gamma).weights for plan in plans]), weights)


@many
@given(st.data())
def test_what_is_delivered_along_edges_is_what_was_meant(data: Any) -> None:
    graph = data.draw(graphs(10))
    counts = data.draw(counts_of(graph.agents))
    plans = [Plan(graph, counts, rank) for rank in range(len(counts))]
    width = graph.mixing_lists()[0].shape[1] - 1
    # each directed edge by a number of its own: blocks of one row an agent, block k to the k-th neighbor
    blocks = [
        [
            (i, graph.neighbors[i][k]) if k < len(graph.neighbors[i]) else None
            for k in range(width)
            for i in plan.own
        ]
        for plan in plans
    ]
    for rank, plan in enumerate(plans):
        arrived = [
            blocks[peer][plans[peer].slot_of(edge) * plans[peer].agents + edge[0] - first]
            for peer, edges in plan.edges_in.items()
            for first in [plans[peer].first_agent]
            for edge in edges
        ]
        rows = [*blocks[rank], *arrived]
        for i, near in zip(plan.own, plan.lists().incoming.tolist(), strict=True):
            found = [rows[row] for row in near if row >= 0]
            assert sorted(found) == [(j, i) for j in graph.neighbors[i]]
