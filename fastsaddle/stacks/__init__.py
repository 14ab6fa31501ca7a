"""What stacks of modules are made of: mapping over agents, and what a module must be."""
