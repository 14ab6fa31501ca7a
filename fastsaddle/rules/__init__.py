"""What is done with a gradient: the rules of all methods, one family a file."""
