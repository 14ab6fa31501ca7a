"""Which engine takes a network's gradients: one that is named, or by a fixed rule from measurements."""

import importlib
import inspect

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from fastsaddle.sim import choices
from fastsaddle.sim.engine import Engine
from fastsaddle.sim.engines import _lane_path
from fastsaddle.sim.engines._layer_chain import layers_of

AUTO = "auto"
# mapping has a fixed cost that fewer agents do not earn back on a CPU: 4 took 1.2 times as long as the loop
FEW_AGENTS = 8


def names() -> tuple[str, ...]:
    """The built-in engines, as options spell them: the files of this folder."""
    return choices.names("engines")


def find(text: str) -> choices.Choice:
    """The engine's class that `--engine` names, or the user's own by import path, with its arguments.

    Raises ValueError for an unknown name, and for something that is no Engine.
    """
    own = choices.own_choice(text)
    if own is not None:
        if not (inspect.isclass(own.function) and issubclass(own.function, Engine)):
            raise ValueError(f"--engine {text} must be a subclass of fastsaddle.sim.engine.Engine")
        return own
    text = choices.spelled(text, names())
    if text not in names():
        raise ValueError(choices.unknown("engine", text, (AUTO, *names())))
    module = importlib.import_module(f"fastsaddle.sim.engines.{text.replace('-', '_')}")
    cls = next(
        v
        for v in vars(module).values()
        if inspect.isclass(v) and issubclass(v, Engine) and v.__module__ == module.__name__
    )
    return choices.Choice(text, cls)


def choose_engine(
    module: nn.Module,
    device: torch.device,
    agents: int,
    precision: str = "float32",
    batch: int | None = None,
    is_spread: bool = False,
) -> str:
    """The engine for a network, by a fixed rule from measurements (benchmarks/steps/test_stacking_tax.py, peers.py).

    Chains of convolutions that end in linear layers are computed in lanes on a CPU with AVX2 where `_lane_path.is_fast`
    says so, which has the measurements: LeNet-5 and networks with EvoNorm (cnn5, ResNet-20, vgg11), however many agents
    there are.
    Chains of linear and elementwise layers are batched: under vmap the perceptron 784-50-10 took 1.7 times as long,
    in a loop 2.7 times. Any other single agent is run by itself on a CPU.
    On a CPU other networks with convolutions run side by side, one agent a thread. Beside the loop, whose threads meet
    in every operation, that took 0.68 to 0.77 of the time for ResNet-20 (2 threads of a machine that others used too).
    vmap turns per-agent weights into grouped
    convolutions, which took 1.3 to 2 times as long as the loop for LeNet-5; products over patches ("unfold") took 1.6
    times, 3.8 times for ResNet-20.
    Networks with embeddings (0.81 of the loop's time for the transformer; 1.04 to 2.4 under vmap), recurrent ones,
    which cannot be mapped, and fewer than 8 agents run side by side there too; where torch was built without OpenMP, in
    a loop. Everything else is mapped. On a GPU all but recurrent networks are batched or mapped, as a loop would be
    bound by launches; that half of the rule, and whether "unfold" or "implicit" beats vmap there, has not been
    measured. "implicit" is taken where it is asked for alone. Where agents are spread over processes, convolutions are
    products over patches instead of mapped ones, whose bits would depend on how many agents share a process.
    """
    is_cpu = device.type == "cpu"
    one_by_one = choose_one_by_one(device, agents)
    obstacle = _lane_path.obstacle(module, device, precision)
    if obstacle is None and _lane_path.is_fast(module, batch):
        return "lanes"
    if is_cpu and agents == 1:
        return one_by_one
    if layers_of(module) is not None:
        return "batched"
    layers = list(module.modules())
    if any(isinstance(layer, nn.RNNBase) for layer in layers):
        return one_by_one
    has_slow = any(isinstance(layer, (_ConvNd, nn.Embedding)) for layer in layers)
    if is_cpu and (agents < FEW_AGENTS or has_slow):
        return one_by_one
    return "unfold" if is_spread and any(isinstance(x, _ConvNd) for x in layers) else "vmap"


def choose_one_by_one(device: torch.device, agents: int) -> str:
    """The engine for networks that cannot be mapped."""
    is_shared = device.type == "cpu" and torch.backends.openmp.is_available() and agents > 1
    return "threads" if is_shared else "loop"
