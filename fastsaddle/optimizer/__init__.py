"""Flat buffers and the optimizer over them: parameters, gradients and state as rows, one an agent."""
