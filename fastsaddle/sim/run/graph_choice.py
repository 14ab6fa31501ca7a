"""Whether a run's steps are captured in a CUDA graph: what `--cuda-graph` asks for, and what stands against it."""

from typing import Literal

import torch

from fastsaddle.kernels.op import ops
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.sim import choices
from fastsaddle.sim.config import TrainConfig, option
from fastsaddle.sim.engines import _choice
from fastsaddle.sim.run.labels import label

# options whose code runs in each step
IN_A_STEP = ("algorithm", "gradient", "model", "compressor", "engine")


def resolve(
    config: TrainConfig, device: torch.device, optimizer: Optimizer, engine: str
) -> tuple[Literal["on", "off"], str]:
    """What `--cuda-graph` comes to, and why.

    Code of one's own may decide on the host unseen: `auto` leaves it out, `on` takes its word.

    Raises:
        ValueError: `on` where it cannot be.
    """
    if config.cuda_graph == "off":
        return "off", "asked for"
    against = obstacle(config, device, optimizer, engine)
    if config.cuda_graph == "on":
        if against is not None:
            raise ValueError(f"--cuda-graph on cannot be: {against}")
        return "on", "asked for"
    own = [name for name in IN_A_STEP if choices.OWN.fullmatch(getattr(config, name))]
    if against is None and own:
        named = f"--{option(own[0])} {label(getattr(config, own[0]))}"
        against = f"{named} may decide on the host, --cuda-graph on says that it does not"
    return ("on", "every step is alike") if against is None else ("off", against)


def obstacle(
    config: TrainConfig, device: torch.device, optimizer: Optimizer, engine: str
) -> str | None:
    """Why this run's steps cannot be captured; None where they can, as far as one knows beforehand."""
    if device.type != "cuda":
        return f"it needs a GPU, got {device}"
    if optimizer.placement is not None:
        return "steps over several processes exchange rows between two kernels"
    if optimizer.decides_on_host is not None:
        return optimizer.decides_on_host
    reads = _choice.find(engine).function.reads_host
    if "gradients" in reads:
        return f"the {engine} engine takes gradients on the host"
    if "whose" in reads and (config.ccl_model or config.ccl_data):
        asked = "--ccl-model and --ccl-data"
        return f"the {engine} engine reads on the host whose features {asked} ask for"
    plain = [
        name for name, op in ops().items() if not op.is_layer and op.choice(device) != "triton"
    ]
    if plain:
        return f"kernels must run on the backend triton, these do not: {', '.join(plain)}"
    return None
