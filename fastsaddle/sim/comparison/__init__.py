"""`fastsaddle compare`: grids of runs, their tuning, their results as tables and pictures."""
