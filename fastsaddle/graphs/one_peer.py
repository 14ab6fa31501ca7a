"""The exponential graph, one hop a round."""

from fastsaddle.graphs.hops import of_hops
from fastsaddle.graphs.mixing_matrix import Topology, check_sizes
from fastsaddle.graphs.pairs import of_pairs
from fastsaddle.graphs.schedule import Periodic, Schedule


def one_peer_exponential(n: int, directed: bool = True) -> Schedule:
    """The exponential graph with one hop a round: in round t agents send 2^(t mod L) places on.

    A period has L = ceil(log2 n) rounds, W_ii = 1/2, and for n = 2^L the product over a period is the exact mean.
    Assran et al. 2019 (arXiv:1811.10792); Ying et al. 2021 (arXiv:2110.13363).

    Args:
        n: number of agents, >= 1.
        directed: True: each agent hears one agent and sends to another, and W is doubly stochastic. False: agents whose
            numbers differ in bit t mod L average in pairs, the one-peer hypercube, and W is symmetric; where n is no
            power of two, agents without such a partner stay alone.

    Raises:
        ValueError: n is not a whole number >= 1.

    Example:
        >>> import fastsaddle as fs
        >>> graph = fs.topology.one_peer_exponential(16)
        >>> graph.period, graph.at(2).neighbors[5]
        (4, (1,))
    """
    check_sizes(n=n)
    name = "one-peer-exponential" + ("" if directed else ":undirected")
    hops = [2**t for t in range(max(1, (n - 1).bit_length()))]
    graphs = [of_hops(name, n, [hop]) if directed else _undirected(name, n, hop) for hop in hops]
    return Periodic(name, graphs)


def _undirected(name: str, n: int, hop: int) -> Topology:
    return of_pairs(name, n, ((i, i + hop) for i in range(n - hop) if not i & hop))
