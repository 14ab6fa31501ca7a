"""Compressors: maps of every agent's row to fewer bytes, each with what it claims about its error."""

from fastsaddle.compressors.base import Compressor, Payload
from fastsaddle.compressors.identity import Identity
from fastsaddle.compressors.random_k import RandomK
from fastsaddle.compressors.sign import Sign
from fastsaddle.compressors.stochastic_quantizer import StochasticQuantizer
from fastsaddle.compressors.top_k import TopK

__all__ = [
    "Compressor",
    "Identity",
    "Payload",
    "RandomK",
    "Sign",
    "StochasticQuantizer",
    "TopK",
]
