"""Which of all gradients taken in a step are whose: lists for the weighted sum of self- and cross-gradients."""

import torch


def gradient_sources(neighbors: torch.Tensor, by_neighbors: bool) -> torch.Tensor:
    """Rows to sum for each agent, int32 `[agents, width]`, in the order of its neighbor list.

    Gradients lie in blocks of one row an agent: block k holds what each agent took on its own batch at the model of
    the k-th agent of its list, itself being the first.

    Args:
        neighbors: int32 `[agents, width]` of a symmetric graph: itself, then neighbors, padded with -1.
        by_neighbors: each agent's own model, on the neighbors' batches (data-variant); otherwise the neighbors' models
            on its own batch (model-variant).
    """
    agents, width = neighbors.shape
    if not by_neighbors:
        slots = torch.arange(width, dtype=torch.int32, device=neighbors.device)
        own = neighbors[:, :1] + agents * slots
        return torch.where(neighbors < 0, neighbors, own)
    listed = neighbors.tolist()
    place = {(j, i): k for j, near in enumerate(listed) for k, i in enumerate(near) if i >= 0}
    rows = [
        [place[j, i] * agents + j if j >= 0 else -1 for j in near] for i, near in enumerate(listed)
    ]
    return torch.tensor(rows, dtype=torch.int32, device=neighbors.device)
