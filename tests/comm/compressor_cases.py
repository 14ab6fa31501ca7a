"""What the tests of compressors share: the folder's examples, a user's own, rows to compress, and messages as bytes."""

import hashlib
import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch

from fastsaddle import compressors
from fastsaddle.compressors.base import Compressor, Payload
from fastsaddle.optimizer.flat_layout import FlatLayout

MODULES: dict[str, ModuleType] = {
    name: importlib.import_module(f"{compressors.__name__}.{name}")
    for name in sorted(m.name for m in pkgutil.iter_modules(compressors.__path__))
    if name != "base" and not name.startswith("_")
}
EXAMPLES: tuple[Compressor, ...] = tuple(c for m in MODULES.values() for c in m.EXAMPLES)
each_compressor = pytest.mark.parametrize("compressor", EXAMPLES, ids=repr)

# two groups of odd tensors: one element, none, one bucket and one element more than that
LAYOUT = FlatLayout.pack([[(3, 5), (37,), (), (0, 4)], [(513,), (2, 33), (64,), (7, 1)]])
# the parameters of LeNet-5 for 28 x 28 images
LENET = FlatLayout.pack(
    [
        [(6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 256), (120,)],
        [(84, 120), (84,), (10, 84), (10,)],
    ]
)


def is_element(layout: FlatLayout) -> torch.Tensor:
    """Which columns hold elements, bool `[stride]`."""
    mask = torch.zeros(1, layout.stride)
    for view in layout.views(mask):
        view.fill_(1.0)
    return mask[0].bool()


@dataclass(frozen=True)
class HalfPrecision(Compressor):
    """A user's own compressor: three methods, and what it claims."""

    def encode(
        self,
        x: torch.Tensor,
        seed: int = 0,
        step: int | torch.Tensor = 0,
        *,
        layout: FlatLayout | None = None,
        first_agent: int = 0,
    ) -> Payload:
        columns = slice(None) if layout is None else is_element(layout)
        return Payload((x.shape[0], x.shape[1]), layout, {"halves": x[:, columns].half()})

    def decode_add_(
        self, payload: Payload, out: torch.Tensor, weight: float | torch.Tensor = 1.0
    ) -> None:
        columns = slice(None) if payload.layout is None else is_element(payload.layout)
        factor = torch.as_tensor(weight).reshape(-1, 1)
        out[:, columns] += factor * payload.parts["halves"].float()

    def wire_bytes(self, dim: int) -> int:
        return 2 * dim

    def delta(self, dim: int) -> float:
        return 1 - 2.0**-20


OWN = HalfPrecision()


def rows(agents: int, like: int | FlatLayout, seed: int) -> torch.Tensor:
    """Normal rows of so many columns, or of a layout with zeros as padding; every agent has its own magnitude."""
    draw = torch.Generator().manual_seed(seed)
    columns = like if isinstance(like, int) else like.stride
    x = torch.randn(agents, columns, generator=draw)
    x *= torch.logspace(-2, 2, agents)[torch.randperm(agents, generator=draw), None]
    return x if isinstance(like, int) else torch.where(is_element(like), x, 0.0)


def messages(payload: Payload) -> list[bytes]:
    return [payload.message(i).numpy().tobytes() for i in range(payload.shape[0])]


def draws(compressor: Compressor) -> bool:
    """Whether what arrives depends on random bits."""
    x = torch.arange(1.0, 98.0).repeat(9, 1)
    payloads = [compressor.encode(x, seed) for seed in (1, 2)]
    return not torch.equal(*(compressor.decode(payload) for payload in payloads))


def digests(seed: int) -> dict[str, str]:
    """SHA-256 of all agents' messages, and of what arrives, by compressor."""
    found = {}
    for compressor in EXAMPLES:
        payload = compressor.encode(rows(3, LAYOUT, seed), seed, 2**40 + 17, layout=LAYOUT)
        everything = b"".join(messages(payload)) + compressor.decode(payload).numpy().tobytes()
        found[repr(compressor)] = hashlib.sha256(everything).hexdigest()
    return found
