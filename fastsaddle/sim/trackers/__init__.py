"""Built-in trackers, a file each. The folder is the list."""
