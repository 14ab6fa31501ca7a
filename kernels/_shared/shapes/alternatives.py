"""The block shapes that kernels can be launched with: all give the same bits, and which is fastest a GPU must say.

A sum that carries a tolerance, as that of `mix_dense`, may differ within it.
"""

from collections.abc import Mapping

# kernel -> name -> constants
ALTERNATIVES: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    # the slices of more agents than a program holds: agents and columns of a block (64 bytes of a row are the least
    # that memory hands out without waste), and how many programs a multiprocessor holds where L2 has place for them
    "gossip_step": {
        "64 rows": {"ROWS": 64, "COLUMNS": 16, "num_warps": 4, "resident": 6},
        "128 rows": {"ROWS": 128, "COLUMNS": 16, "num_warps": 8, "resident": 3},
    },
    # quantize and compress_ef: numbers of a program, and its warps; one that is a warp waits for no other
    "quantize": {
        "512 by 1 warp": {"TILE": 512, "num_warps": 1},
        "1024 by 1 warp": {"TILE": 1024, "num_warps": 1},
        "1024 by 2 warps": {"TILE": 1024, "num_warps": 2},
        "2048 by 4 warps": {"TILE": 2048, "num_warps": 4},
    },
    # numbers of a block and of a thread; or two kernels for any number of agents, which move half as much again
    "choco_step": {
        "256 by 8": {"numbers": 256, "each": 8},
        "512 by 8": {"numbers": 512, "each": 8},
        "1024 by 8": {"numbers": 1024, "each": 8},
        "halves": {"numbers": 0, "each": 0},
    },
    # rows and columns of a tile, and terms at once: full-precision products run outside the matrix units, and what a
    # tile reads is shared by its rows; torch's product, where the process's settings leave it whole
    "mix_dense": {
        "16 x 64": {"torch": 0, "ROWS": 16, "COLUMNS": 64, "TERMS": 16, "num_warps": 4},
        "32 x 64": {"torch": 0, "ROWS": 32, "COLUMNS": 64, "TERMS": 16, "num_warps": 4},
        "64 x 64": {"torch": 0, "ROWS": 64, "COLUMNS": 64, "TERMS": 16, "num_warps": 8},
        "torch": {"torch": 1, "ROWS": 32, "COLUMNS": 64, "TERMS": 16, "num_warps": 4},
    },
}
