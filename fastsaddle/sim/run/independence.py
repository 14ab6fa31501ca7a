"""Whether an agent's gradient depends on who shares its process."""

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from fastsaddle.sim import choices

# what config.json says of a run of several processes: its bits are those of any placement, or of this one alone
ANY, PLACEMENT = "any placement", "placement"


def bits(module: nn.Module, engine: str) -> str:
    """What the bits of a run over several processes depend on.

    vmap makes grouped convolutions of all agents here, whose sums depend on how many these are; dropout draws from
    torch's global generator, which each process has for itself; and of an engine of one's own nothing is known.
    """
    layers = list(module.modules())
    grouped = engine == "vmap" and any(isinstance(layer, _ConvNd) for layer in layers)
    drawn = any(isinstance(layer, _DropoutNd) and layer.p > 0 for layer in layers)
    own = choices.OWN.fullmatch(engine) is not None
    return PLACEMENT if grouped or drawn or own else ANY
