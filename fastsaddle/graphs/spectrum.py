"""How fast the rounds of a schedule bring agents together, one after the other."""

import math

import torch

from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.graphs.schedule import (
    ESTIMATED_OVER,
    Schedule,
    kind_of,
    rounds_of,
    rounds_over,
)


def consensus_rate(schedule: Schedule) -> float:
    """What a gossip leaves of the agents' distance to their mean; 0: nothing at the end, 1: gossip never agrees.

    Of a period it is the second singular value of the product of its W, to the power 1 / period: over whole periods no
    start shrinks by less. Of a symmetric graph that stays it is 1 - `spectral_gap`. Of graphs that never come again it
    is an estimate over the first 200: the root of the largest eigenvalue, but for the mean's, of the average of
    W^T W, which is what mean square distances shrink by at least (Boyd et al. 2006, doi:10.1109/TIT.2006.874516). Of W
    that are row- or column-stochastic alone it is of what they bring to agreement, models or what push-sum makes of
    sums.
    """
    agents, rounds = schedule.agents, rounds_over(schedule)
    kind = kind_of(schedule)
    matrices = (schedule.at(t).W for t in range(rounds))
    if schedule.period is None:
        mean = torch.zeros(agents, agents, dtype=torch.float64, device="cpu")
        for W in matrices:
            if kind.endswith("doubly stochastic"):
                mean += W.T.to_sparse() @ W - 1 / agents
            else:
                left = _centered(_centered(W if kind == "row-stochastic" else W.T).T).T
                mean += left.T @ left
        return min(1.0, max(0.0, float(torch.linalg.eigvalsh(mean / rounds)[-1])) ** 0.5)
    product, log = _centered(torch.eye(agents, dtype=torch.float64, device="cpu")), 0.0
    for W in matrices:
        # rounding must not bring back what a mean is made of
        product = _centered(W.to_sparse() @ product)
        if kind == "column-stochastic":
            product = _centered(product.T).T
        size = float(product.norm())
        if size < agents * 1e-15:
            return 0.0
        product, log = product / size, log + math.log(size)
    norm = float(torch.linalg.matrix_norm(product, 2))
    return min(1.0, math.exp((math.log(norm) + log) / rounds))


def extrapolated_growth(schedule: Schedule, consensus_step: float = 1.0) -> float:
    """What x_{t+1} = W_t (2 x_t - x_{t-1}), D2 without gradients, grows by in a round once agents differ.

    The spectral radius of a period's product to the power 1 / period, on what sums to zero; of graphs that never come
    again the growth over the first 1,000, an estimate. Below one differences die out. Where W stays it is at most one
    if no eigenvalue is below -1/3; where it changes, eigenvalues of the rounds do not tell.

    Args:
        schedule: doubly stochastic.
        consensus_step: gamma, folded into W.
    """
    agents, rounds = schedule.agents, rounds_of(schedule)
    center = _centered(torch.eye(agents, dtype=torch.float64, device="cpu"))
    now = torch.cat([center, torch.zeros_like(center)], 1)
    before, log = now.roll(agents, 1), 0.0
    for t in rounds:
        ahead = 2 * now - before
        mixed = schedule.at(t).W.to_sparse() @ ahead
        now, before = _centered(ahead + consensus_step * (mixed - ahead)), now
        size = max(1e-300, float(torch.cat([now, before]).norm()))
        now, before, log = now / size, before / size, log + math.log(size)
    product = torch.cat([now, before])
    if schedule.period is None:
        radius = float(torch.linalg.matrix_norm(product, 2))
    else:
        radius = float(torch.linalg.eigvals(product).abs().max())
    return math.exp((math.log(max(radius, 1e-300)) + log) / len(rounds))


def described(schedule: Schedule) -> str:
    """How fast it mixes, in a few words: a graph's spectral gap, or the consensus rate of graphs that change."""
    if isinstance(schedule, Topology):
        return f"spectral gap {schedule.spectral_gap:.4g}"
    over = f"its period of {schedule.period}"
    if schedule.period is None:
        over = f"{ESTIMATED_OVER} rounds, an estimate"
    return f"consensus rate {consensus_rate(schedule):.4g} a round over {over}"


def _centered(x: torch.Tensor) -> torch.Tensor:
    """What of each column does not change the mean."""
    return x - x.mean(0)
