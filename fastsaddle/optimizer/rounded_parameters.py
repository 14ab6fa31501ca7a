"""bfloat16 parameters as rounded copies of float32 master rows, which steps work on."""

from collections.abc import Sequence

import torch
from torch.nn import Parameter

# what parameters may be; float32 ones lie in the master rows themselves
PARAMETER_DTYPES = (torch.float32, torch.bfloat16)


def is_rounded(p: torch.Tensor) -> bool:
    """Whether a parameter is a rounded copy of its part of the master rows."""
    return p.dtype == torch.bfloat16


class RoundedParameters:
    """The bfloat16 parameters of flat buffers. Steps work on float32 rows alone, the module on these copies.

    Values are rounded to nearest, ties to even, which needs no draws: nothing is lost by it, as the next step starts
    from the master rows. Beside 8 bytes a number for the master and its gradient a copy takes 4 more, and a step reads
    and writes about three times as much as one on float32 parameters.

    Args:
        masters, gradients: each bfloat16 parameter's part of the float32 rows.
        values, value_gradients: the bfloat16 memory of the same shapes, that parameters and `.grad` are views of.
    """

    def __init__(
        self,
        masters: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        value_gradients: Sequence[torch.Tensor],
    ) -> None:
        self._masters, self._gradients = list(masters), list(gradients)
        self._values, self._value_gradients = list(values), list(value_gradients)

    def publish(self) -> None:
        """Round the master rows into the parameters."""
        torch._foreach_copy_(self._values, self._masters)

    def absorb(self) -> None:
        """Take over what somebody wrote to parameters: masters that no longer round to them."""
        for master, value in zip(self._masters, self._values, strict=True):
            same = master.to(value.dtype) == value
            master.copy_(torch.where(same, master, value.float()))

    def collect(self) -> None:
        """Bring the bfloat16 gradients into the float32 rows."""
        torch._foreach_copy_(self._gradients, self._value_gradients)


def check_dtype(p: Parameter, number: int) -> None:
    """Raise ValueError for a parameter that is neither float32 nor bfloat16."""
    if p.dtype in PARAMETER_DTYPES:
        return
    remedies = {
        torch.float16: "keep them float32 and compute in float16 by torch.autocast and a GradScaler",
        torch.float64: "module.float() makes them float32, which all steps compute in",
    }
    remedy = remedies.get(p.dtype)
    raise ValueError(
        f"parameters must be float32 or bfloat16, got {p.dtype} for parameter {number}"
        + (f": {remedy}" if remedy else "")
    )
