"""Partitions of a training set over agents: one file each, chosen by its name."""
