"""Whole runs and comparisons from Python, as the command line has them."""
