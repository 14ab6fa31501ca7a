"""The named optimizers: each a gradient, a rule and a communicator put together, one family a file."""
