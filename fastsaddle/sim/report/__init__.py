"""`fastsaddle report`: one HTML page about runs and comparisons, complete in itself."""
