"""Whether a run fits into memory, found before anything of its size is made."""

import sys
import warnings
from pathlib import Path

import torch
from torch import nn

try:
    import resource
except ImportError:
    # not on Windows, where a process has no such limits
    resource = None  # type: ignore[assignment]

import fastsaddle as fs
from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.sim import methods
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.data.dataset import Dataset
from fastsaddle.sim.run import initial_models, topologies
from fastsaddle.sim.run.labels import label, of_agents

UNITS = {"PB": 1e15, "TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}
# dense float64 matrices that are there at once while a graph is made
MATRICES = 4
# what an optimizer keeps at least: models and gradients
FEWEST_ROWS = 2
# smaller than this share of what is free is not looked at closely
SMALL = 1 / 16


def check(config: TrainConfig, dataset: Dataset, device: torch.device) -> None:
    """Raise ValueError where a run's graph, models or batches need more memory than is free.

    What is counted is a lower bound: activations and short-lived copies come on top.
    """
    free, agents = free_bytes(device), config.agents
    if free is None:
        return
    sample = dataset.train[:1].nbytes + dataset.train_labels.itemsize
    batch = agents * config.batch_size * (sample + 8)
    what = f"batches of {config.batch_size:,} samples for {of_agents(agents)}"
    _refuse(what, batch, free, "use a smaller --batch-size")
    graph, here = MATRICES * 8 * agents**2, free_bytes(torch.device("cpu")) or free
    _refuse(f"mixing matrices of {of_agents(agents)}", graph, here, "use fewer --agents")
    layout, buffers = shapes(config.model, dataset.shape, len(dataset.classes), dataset.vocabulary)
    rows: float = FEWEST_ROWS
    if agents * rows * layout.stride * 4 > SMALL * free:
        rows = kept_rows(config)
    total = agents * (rows * layout.stride * 4 + buffers)
    what = f"{of_agents(agents)} of {label(config.model)} ({layout.dim:,} parameters, {rows:g} rows each)"
    _refuse(what, total, free, "use fewer --agents or a smaller --model")


def shapes(
    model: str, shape: tuple[int, ...], classes: int, vocabulary: int | None = None
) -> tuple[FlatLayout, int]:
    """The layout of one agent's parameters and the bytes of its buffers.

    Nothing is allocated where a network can be made without its values; those of the user that cannot are made.
    """
    try:
        with torch.device("meta"):
            network = initial_models.build(model, shape, classes, 0, vocabulary)
    # an error of the options themselves comes again; whatever else needs values
    except Exception:
        network = initial_models.build(model, shape, classes, 0, vocabulary)
    layout = FlatLayout.pack([[p.shape for p in network.parameters()]])
    return layout, sum(b.nbytes for b in network.buffers())


def kept_rows(config: TrainConfig) -> float:
    """Rows that an optimizer keeps for each agent, bfloat16 ones counting half, found on a network of one parameter."""
    # makes the options of an optimizer, and needs what this module checks
    from fastsaddle.sim.run.simulation import optimizer_options

    stack = fs.AgentStack(nn.Linear(1, 1, bias=False), config.agents)
    graph = topologies.find(config.topology, config.agents, config.seed)
    options = optimizer_options(config, graph, config.steps)
    with warnings.catch_warnings():
        # the run's own optimizer warns itself
        warnings.simplefilter("ignore")
        optimizer = methods.build(
            config.algorithm, list(stack.parameters()), config.gradient, config.option, **options
        )
    return resident_bytes(optimizer) / (config.agents * stack.layout.stride * 4)


def resident_bytes(optimizer: Optimizer) -> int:
    """Bytes of the buffers of whole rows that an optimizer keeps between steps, each counted once."""
    rows = optimizer.rows
    kept = [v for v in optimizer.made.values() if isinstance(v, torch.Tensor)]
    held = (rows.x, rows.g, *optimizer.flat_state.values(), *kept)
    wide = (t for t in held if t.dim() == 2 and t.shape[1] == rows.layout.stride)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in wide}
    return sum(storages.values())


def peak_bytes() -> int | None:
    """The most resident memory that this process has had; None where the system does not tell."""
    if resource is None:
        return None
    # kilobytes, but on macOS bytes
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def size(count: float) -> str:
    """Bytes in the largest unit that leaves a whole part."""
    unit = next((u for u in UNITS if count >= UNITS[u]), "kB")
    return f"{count / UNITS[unit]:.2f} {unit}"


def free_bytes(device: torch.device, root: Path = Path("/")) -> int | None:
    """Memory that a process may still take on a device; None where the system does not tell.

    On a CPU what the system has, or what the container (control group) or the process's own limit (ulimit -v) leaves,
    swap included where it is the system's.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [
        _of_system(root / "proc/meminfo"),
        _of_process(root / "proc/self/status"),
        *_of_groups(root),
    ]
    return min((count for count in found if count is not None), default=None)


def _of_system(path: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
        return 1024 * sum(int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, ValueError, KeyError):
        return None


def _of_process(path: Path) -> int | None:
    if resource is None:
        return None
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return None
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
        return max(0, most - 1024 * int(lines["VmSize"].split()[0]))
    except (OSError, ValueError, KeyError):
        return most


def _of_groups(root: Path) -> list[int]:
    """What each group that the process is in leaves, of the second version's files and of the first's."""
    try:
        entries = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for entry in entries:
        _, controllers, place = entry.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        names = ("memory.max", "memory.current", "inactive_file")
        base = root / "sys/fs/cgroup"
        if controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            base = base / "memory"
        mine = base / place.lstrip("/")
        # in a container the group's path may be the host's: its own is mounted at the top
        for folder in (mine, *(p for p in mine.parents if p == base or base in p.parents)):
            left = _left_in(folder, *names)
            if left is not None:
                found.append(left)
    return found


def _left_in(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    try:
        most, used = (int((folder / name).read_text()) for name in (limit, usage))
        lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    # "max" is no number: there is no limit
    except (OSError, ValueError):
        return None
    return max(0, most - used + int(lines.get(reclaimable, 0)))


def _refuse(what: str, needed: float, free: int, remedy: str) -> None:
    if needed > free:
        raise ValueError(f"{what} take {size(needed)} of memory, {size(free)} are free: {remedy}")
