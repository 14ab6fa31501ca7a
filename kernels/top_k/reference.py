"""top_k in plain PyTorch."""

import torch

from fastsaddle.kernels._shared.buckets.reference import COUNT_RULE, MAGNITUDE, check_table
from fastsaddle.kernels._shared.philox.reference import whole


def top_k_reference(
    x: torch.Tensor,
    buckets: torch.Tensor,
    counts: torch.Tensor,
    random: bool,
    seed: int,
    step: torch.Tensor,
    first_agent: int,
    indices: torch.Tensor,
    values: torch.Tensor,
) -> None:
    check_table(buckets, x.shape[1], x.shape[1])
    if (
        bool((counts < 1).any() | (counts > buckets[:, 1]).any())
        or int(counts.sum()) != indices.shape[1]
    ):
        raise ValueError(COUNT_RULE)
    drawn = whole(x, seed, step, first_agent) if random else None
    scores = x.contiguous().view(torch.int32) & MAGNITUDE if drawn is None else drawn
    kept = []
    for (first, elements), count in zip(buckets.tolist(), counts.tolist(), strict=True):
        # stable, so that of equal scores the lower column comes first
        order = scores[:, first : first + elements].sort(dim=1, descending=True, stable=True)
        kept.append(order.indices[:, :count].sort(dim=1).values + first)
    columns = torch.cat(kept, dim=1)
    indices.copy_(columns)
    values.copy_(x.gather(1, columns))
