"""Floor 5: from a wish to running processes. Here: local/, the cluster of one machine."""
