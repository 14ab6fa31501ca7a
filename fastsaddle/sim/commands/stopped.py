"""What a command raises for a run that could not reach its end; imported before anything that takes seconds."""


class StoppedError(Exception):
    """A run that could not reach its end; its last checkpoint is whole."""
