"""The networks of the simulator: a file each, whose function of the same name builds it."""
