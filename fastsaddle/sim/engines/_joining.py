"""What several passes returned, as one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def joined(join: Callable[[list[Tensor]], Tensor], found: list[Any]) -> Any:
    """Equal trees of tensors as one, leaf by leaf: by `torch.cat` of parts, or by `torch.stack` of single agents."""
    if join is torch.cat and len(found) == 1:
        return found[0]
    return tree_map(lambda *leaves: join(list(leaves)), *found)
