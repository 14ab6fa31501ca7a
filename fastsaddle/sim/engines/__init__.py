"""Engines that take the gradients of all agents."""
