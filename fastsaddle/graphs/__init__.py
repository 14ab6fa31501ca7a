"""Graphs: topologies and their mixing matrices, and the lists of rows that kernels read off them."""
