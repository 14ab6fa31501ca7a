"""One run: its options resolved, its steps, its directory and what it tells."""
