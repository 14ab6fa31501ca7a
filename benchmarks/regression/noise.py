"""Images to train on that nobody has to fetch: speed does not depend on what there is to see."""

from pathlib import Path
from typing import Any

import numpy as np

SHAPE, CLASSES = (1, 28, 28), 10
# enough for a batch of each agent; few to test on, which is not timed
COUNTS = {"train": 2048, "test": 40}


def write_noise(path: Path) -> None:
    """Write an .npz file as `fastsaddle train --dataset npz` reads it."""
    source = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in COUNTS.items():
        arrays[f"x_{part}"] = source.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % CLASSES
    np.savez(path, **arrays)
