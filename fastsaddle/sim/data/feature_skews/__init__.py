"""Feature skews: each agent's images changed in its own way; one file each, chosen by its name."""
