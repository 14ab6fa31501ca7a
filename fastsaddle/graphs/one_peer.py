"""The exponential graph, one hop a round."""

from fastsaddle.graphs.hops import of_hops
from fastsaddle.graphs.mixing_matrix import Topology, check_sizes
from fastsaddle.graphs.pairs import of_pairs
from fastsaddle.graphs.schedule import Periodic, Schedule


def one_peer_exponential(n: int, directed: bool = True) -> Schedule:
    """In round t agents send 2^(t mod L) places on, L = ceil(log2 n) rounds being a period; W_ii = 1/2.

    For n = 2^L a period's product is the exact mean. Directed, each agent hears one and sends to one other, and W is
    doubly stochastic (Assran et al. 2019, arXiv:1811.10792; Ying et al. 2021, arXiv:2110.13363). Undirected, agents
    that differ in bit t mod L of their number average in pairs, the one-peer hypercube, and those without such a
    partner, which there are where n is no power of two, stay alone: W is symmetric.

    Raises:
        ValueError: n below 1.
    """
    check_sizes(n=n)
    name = "one-peer-exponential" + ("" if directed else ":undirected")
    hops = [2**t for t in range(max(1, (n - 1).bit_length()))]
    graphs = [of_hops(name, n, [hop]) if directed else _undirected(name, n, hop) for hop in hops]
    return Periodic(name, graphs)


def _undirected(name: str, n: int, hop: int) -> Topology:
    return of_pairs(name, n, ((i, i + hop) for i in range(n - hop) if not i & hop))
