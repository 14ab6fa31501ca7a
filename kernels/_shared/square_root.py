"""Square roots with the same bits on every processor."""

import torch


def square_root(t: torch.Tensor) -> torch.Tensor:
    """The square roots of float32 numbers, rounded correctly, new.

    On a CPU torch takes MKL's, which on an Intel Xeon were one unit in the last place off for 7 of 1,000 numbers. Those
    of float64 are near enough: the root of a 24-bit number lies at least 2^-50 of itself away from where float32 would
    round the other way.
    """
    return torch.sqrt(t) if t.device.type != "cpu" else torch.sqrt(t.double()).float()
