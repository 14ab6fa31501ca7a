"""Arguments that ops on buckets have in common: the table of buckets, and what codes are written to."""

import torch

from fastsaddle.kernels.arguments import Array, Int

BUCKETS = Array(
    "buckets",
    torch.int32,
    "count, 2",
    about="first column and number of elements of each bucket; they cover all columns, each from a multiple of 32 on",
)
BUCKET = Int("bucket", 1, about="no bucket has more elements")
BITS = Int("bits", about="of a code: 2, 4 or 8")
LEVELS = Int("levels", about="1 to 2^bits - 1")
NORM = Int("norm", about="0 (largest magnitude) or 1 (Euclidean norm)")
CODES = Array("codes", torch.uint8, "agents, columns * bits // 8", written=True, read=False)
SCALES = Array("scales", torch.float32, "agents, count", written=True, read=False)
SIGNS = Array(
    "signs",
    torch.uint8,
    "agents, columns // 8",
    written=True,
    read=False,
    optional=True,
    about="None where codes hold the sign",
)
# of a compressed step
MOST_LEVELS = 127
# all agents of a bucket lie in a core's cache together
MOST_ELEMENTS = 1024
SQUARES = Array(
    "squares",
    torch.float64,
    "agents, 2",
    written=True,
    read=False,
    about="||t||^2 and ||Q(t) - t||^2",
)
