"""What this machine would run: versions, devices, each kernel's backend and why, copy bandwidth."""

import importlib.metadata
import os
import platform
import statistics
import time

import torch

import fastsaddle
from fastsaddle.kernels import native
from fastsaddle.kernels._shared.shapes import table as shapes
from fastsaddle.kernels.op import ops

BUFFER_BYTES = 256 * 2**20
ROUNDS = 5


def report(missing: list[str]) -> str:
    """All that decides whether and how fast this installation works, as plain text.

    `missing` are the simulator's packages that are not installed.
    """
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    sections = [
        ("versions", _versions()),
        ("devices", _devices()),
        ("native library", _native_library()),
        *((f"kernels on {kind}", _kernels(kind)) for kind in kinds),
        ("block shapes of Triton kernels, by whom they were chosen", shapes.origins()),
        ("copy bandwidth, bytes read + written", [_bandwidth(kind) for kind in kinds]),
        ("simulator (fastsaddle train, compare, report)", [_simulator(missing)]),
    ]
    return "\n".join("\n  ".join([title, *lines]) for title, lines in sections)


def copy_bandwidth(device: str, size: int = BUFFER_BYTES) -> float:
    """Median GB/s, read and write counted, of copying a buffer of `size` bytes."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(1 + ROUNDS):
        _synchronize(device)
        begin = time.perf_counter()
        target.copy_(source)
        _synchronize(device)
        seconds.append(time.perf_counter() - begin)
    # the first copy also pays for the pages of the target
    return 2 * size / statistics.median(seconds[1:]) / 1e9


def _versions() -> list[str]:
    names = ("triton", "numpy", "networkx")
    lines = [
        f"fastsaddle {fastsaddle.__version__}",
        f"python {platform.python_version()}",
        # with its build, which the package's metadata may lack
        f"torch {torch.__version__}",
    ]
    for name in names:
        try:
            lines.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{name} not installed")
    return lines


def _devices() -> list[str]:
    lines = [
        f"cpu: {platform.machine()} {torch.backends.cpu.get_cpu_capability()}, "
        f"{os.cpu_count()} logical cores, torch uses {torch.get_num_threads()} threads"
    ]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        memory = properties.total_memory / 2**30
        lines.append(f"cuda:{i}: {properties.name}, {memory:.0f} GiB")
    if len(lines) == 1:
        built = torch.version.cuda or torch.version.hip
        reason = "torch sees none" if built else "this torch is built for the CPU only"
        lines.append(f"no GPU: {reason}")
    return lines


def _native_library() -> list[str]:
    """Whether the compiled library opens; the reason, with the compiler's words, where it does not."""
    log = native.package_folder() / native.BUILD_LOG_NAME
    built = [f"build: {log.read_text().splitlines()[-1]}, see {log}"] if log.exists() else []
    try:
        native.library()
    except ImportError as error:
        return [f"not used: {error}", *built]
    return [f"in use: {native.library_path()}", *built]


def _kernels(kind: str) -> list[str]:
    """One line per op with the backend that would run, then why others would not."""
    width = max(len(name) for name in ops())
    lines = [f"{name:<{width}}  {op.choice(kind)}" for name, op in ops().items()]
    without: dict[tuple[str, str], list[str]] = {}
    for name, op in ops().items():
        for backend, reason in op.unavailable(kind).items():
            without.setdefault((backend, reason), []).append(name)
    for (backend, reason), names in without.items():
        possible = [name for name, op in ops().items() if backend in op.backends]
        where = "" if names == possible else f" for {', '.join(names)}"
        lines.append(f"not {backend}{where}: {reason}")
    return lines


def _bandwidth(kind: str) -> str:
    size = min(BUFFER_BYTES, _free_bytes(kind) // 8)
    return f"{kind}: {copy_bandwidth(kind, size):.1f} GB/s ({size / 2**20:.0f} MiB buffer)"


def _free_bytes(kind: str) -> int:
    if kind == "cuda":
        return torch.cuda.mem_get_info()[0]
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 8 * BUFFER_BYTES


def _simulator(missing: list[str]) -> str:
    if not missing:
        return "ready"
    return f"needs {', '.join(missing)}: pip install 'fastsaddle[sim]'"


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
