"""The simulator: data, its split over agents, networks, all agents' gradients, the main job."""
