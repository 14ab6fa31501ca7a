"""Names of the runs of `train` that are measured beside each other: in one process, in two, and decent-dp."""

ONE, SPREAD, PEER = "fastsaddle", "fastsaddle, 2 processes", "decent-dp, all cores"
