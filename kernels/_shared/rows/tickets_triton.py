"""Counters that the programs of a launch share, zero before it and after it; every stream has its own.

Launches on one stream follow each other and take turns with them. Those on two streams may run at the same time, and so
may the replay of a captured graph: a graph gets counters that are nobody else's, and sets them to zero itself.
"""

import torch

# one for each device and stream, kept for good
_kept: dict[tuple[torch.device, int], torch.Tensor] = {}


def tickets(count: int, device: torch.device) -> torch.Tensor:
    """`[count]` int32 zeros or more of them, for launches on the current stream that leave zeros behind.

    Args:
        count: counters that the launch takes.
        device: where it runs; the current device, if it is a GPU.
    """
    stream = current_stream(device)
    if stream is None:
        return torch.zeros(count, dtype=torch.int32, device=device)
    kept = _kept.get((device, stream))
    if kept is None or kept.numel() < count:
        kept = _kept[device, stream] = torch.zeros(count, dtype=torch.int32, device=device)
    return kept


def current_stream(device: torch.device) -> int | None:
    """The number of the stream that launches go to; None while a graph is captured there."""
    if device.type != "cuda":
        return 0
    if torch.cuda.is_current_stream_capturing():
        return None
    return torch.cuda.current_stream(device).cuda_stream
