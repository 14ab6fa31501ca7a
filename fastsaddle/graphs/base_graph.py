"""The base-(k+1) graph: the exact mean of any number of agents in few rounds, with at most k neighbors in each.

Takezawa et al. 2023, arXiv:2305.11420. A round is a list of weighted edges between agents of a list.
"""

from collections.abc import Sequence
from functools import cache

import torch

from fastsaddle.graphs.mixing_matrix import Topology, check_sizes
from fastsaddle.graphs.schedule import Periodic, Schedule

# i, j, the weight on both sides
Edge = tuple[int, int, float]
Round = list[Edge]


def base_graph(n: int, k: int) -> Schedule:
    """Graphs of at most k neighbors whose product over a period is the exact mean, for any n.

    The base-(k+1) graph of Takezawa et al. 2023 (arXiv:2305.11420), algorithms 1 to 3. A period has at most 2
    log_{k+1}(n) + 2 rounds. Every W is symmetric and doubly stochastic. Within a group that averages all weights are
    equal; rounds between a large and a small group weigh them by their sizes.

    Args:
        n: number of agents, >= 1.
        k: largest number of neighbors in a round, >= 1.

    Raises:
        ValueError: n or k is not a whole number >= 1.

    Example:
        >>> import fastsaddle as fs
        >>> fs.topology.base_graph(6, 1)
        Schedule(base-graph:1, agents=6, period=4)
    """
    check_sizes(n=n, k=k)
    rounds = _rounds(range(n), k)
    # of a single agent there is nothing to do, once
    graphs = [_graph(f"base-graph:{k}", n, edges) for edges in rounds or [[]]]
    return Periodic(f"base-graph:{k}", graphs)


def _rounds(agents: Sequence[int], k: int) -> list[Round]:
    """Algorithm 3: of n = p q with all prime factors up to k + 1 in p, q each on their own, then p across."""
    smooth, rest = _split(len(agents), k)
    alone = _simple(agents, k)
    # p groups of q agents, one behind the other
    groups = [agents[first : first + rest] for first in range(0, len(agents), rest)]
    inside = [_simple(group, k) for group in groups]
    across = [_hypercube(agents[place::rest], k) for place in range(rest)]
    if len(inside[0]) + len(across[0]) >= len(alone):
        return alone
    assert smooth == len(groups)
    return _at_once(inside) + _at_once(across)


def _simple(agents: Sequence[int], k: int) -> list[Round]:
    """Algorithm 2: groups of sizes a_l (k+1)^p_l, descending; each averages, then gives the smaller ones their share.

    In the round in which a group meets all smaller ones, each agent of these hears one agent of each of its a_l parts
    of (k+1)^p_l agents, with such weights that the parts' means, and that of the smaller groups together, become the
    mean of all of them. The parts then average by themselves, while the smaller groups go on among themselves.
    """
    n = len(agents)
    sizes = _digits(n, k)
    if len(sizes) == 1:
        return _hypercube(agents, k)
    groups, first = [], 0
    for count, part in sizes:
        groups.append(agents[first : first + count * part])
        first += count * part
    rounds = _at_once([_hypercube(group, k) for group in groups])
    begin = len(rounds)
    for place, ((count, part), group) in enumerate(zip(sizes, groups, strict=True)):
        smaller = [agent for other in groups[place + 1 :] for agent in other]
        if not smaller:
            break
        weight = part / (len(group) + len(smaller))
        parts = [group[row * part : (row + 1) * part] for row in range(count)]
        shared = [(p[j], agent, weight) for p in parts for j, agent in enumerate(smaller)]
        averaging = [_hypercube(p, k) for p in parts]
        _add(rounds, begin + place, [shared, *_at_once(averaging)])
    return rounds


def _hypercube(agents: Sequence[int], k: int) -> list[Round]:
    """Algorithm 1, the k-peer hyper-hypercube: agents in a grid with sides of at most k + 1, a side at a time."""
    rounds: list[Round] = []
    step = 1
    for side in _sides(len(agents), k):
        lines = (
            [agents[first + step * place] for place in range(side)]
            for first in range(len(agents))
            if first // step % side == 0
        )
        rounds.append(
            [(a, b, 1 / side) for line in lines for i, a in enumerate(line) for b in line[:i]]
        )
        step *= side
    return rounds


def _at_once(several: list[list[Round]]) -> list[Round]:
    """Rounds of groups that share nobody, at the same time; who is done waits."""
    rounds: list[Round] = []
    for own in several:
        _add(rounds, 0, own)
    return rounds


def _add(rounds: list[Round], begin: int, more: list[Round]) -> None:
    """Let `more` happen from round `begin` on, beside what happens then."""
    rounds.extend([] for _ in range(begin + len(more) - len(rounds)))
    for round_, edges in zip(rounds[begin:], more, strict=False):
        round_.extend(edges)


def _digits(n: int, k: int) -> list[tuple[int, int]]:
    """n in base k + 1, the highest digit first: (digit, power of k + 1) for each that is not zero."""
    found, power = [], 1
    while n:
        n, digit = divmod(n, k + 1)
        if digit:
            found.append((digit, power))
        power *= k + 1
    return found[::-1]


def _split(n: int, k: int) -> tuple[int, int]:
    """n = p q, p having all prime factors up to k + 1."""
    smooth = 1
    for prime in range(2, k + 2):
        while n % prime == 0:
            n, smooth = n // prime, smooth * prime
    return smooth, n


@cache
def _sides(n: int, k: int) -> tuple[int, ...]:
    """The fewest factors of n of at most k + 1 each, the largest first; n has no prime factor above."""
    if n == 1:
        return ()
    factors = [side for side in range(min(n, k + 1), 1, -1) if n % side == 0]
    return min(((side, *_sides(n // side, k)) for side in factors), key=len)


def _graph(name: str, n: int, edges: Round) -> Topology:
    W = torch.zeros(n, n, dtype=torch.float64, device="cpu")
    for i, j, weight in edges:
        W[i, j] = W[j, i] = weight
    return Topology(name, W + (1 - W.sum(1)).clamp(min=0).diag())
