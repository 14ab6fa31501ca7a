"""Whether an agent's gradient depends on who shares its process."""

from copy import deepcopy

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from fastsaddle.sim import choices
from fastsaddle.sim.engines._agent_threads import draws

# what config.json says of a run of several processes: its bits are those of any placement, or of this one alone
ANY, PLACEMENT = "any placement", "placement"


def bits(module: nn.Module, engine: str, inputs: Tensor) -> str:
    """What the bits of a run over several processes depend on.

    vmap makes grouped convolutions of all agents here, whose sums depend on how many these are; dropout draws from
    torch's global generator, which each process has for itself; and of an engine of one's own nothing is known.

    Whether a network draws is tried: as a layer, within an LSTM, in attention, or by a function, dropout shows nowhere
    else. What draws only at times, or from a generator of its own, is not seen.

    Args:
        module: an agent's network, which stays as it is.
        engine: how gradients are taken.
        inputs: two samples or more, as it takes them.
    """
    grouped = engine == "vmap" and any(isinstance(layer, _ConvNd) for layer in module.modules())
    own = choices.OWN.fullmatch(engine) is not None
    # of a GPU's generator nothing is known here
    tried = deepcopy(module).cpu().train()
    return PLACEMENT if grouped or own or draws(lambda: tried(inputs.cpu())) else ANY
