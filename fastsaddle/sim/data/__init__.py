"""Data sets, their split over agents, and batches."""
