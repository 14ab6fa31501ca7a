"""The optimizers, one published family a file."""
