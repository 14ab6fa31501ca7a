"""Data sets, whole and normalized, with a fixed test set: one file each, chosen by its name."""
