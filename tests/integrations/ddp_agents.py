"""Two agents of two ranks each, which torchrun starts: DDP inside an agent, gossip between ranks of equal place."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import fastsaddle as fs

STEPS, AGENTS, REPLICAS, BATCH = 20, 2, 2, 6
# with a whole consensus step two agents would average their models
OPTIONS = {"lr": 0.1, "rho": 0.1, "topology": "ring", "consensus_step": 0.5}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs `[steps, agents, samples, 8]` and classes; each replica of an agent takes its part of the samples."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, AGENTS, REPLICAS * BATCH, 8, generator=draw)
    x[:, 1] += 0.5
    return x, x[..., :3].argmax(-1)


def main() -> tuple[nn.Module, nn.Module]:
    """The model of this rank, and the agents' mean."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (AGENTS, REPLICAS), mesh_dim_names=("agent", "replica"))
    agent, replica = mesh.get_coordinate()
    model = DistributedDataParallel(network(), process_group=mesh.get_group("replica"))
    optimizer = fs.QSADDLe(model.parameters(), **OPTIONS, process_group=mesh["agent"])
    part = slice(replica * BATCH, (replica + 1) * BATCH)
    for x, y in zip(*batches(), strict=True):

        def closure(x: torch.Tensor = x[agent, part], y: torch.Tensor = y[agent, part]) -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()

        optimizer.step(closure)
    averaged = optimizer.consensus(model)
    dist.destroy_process_group()
    return model.module, averaged


if __name__ == "__main__":
    model, averaged = main()
