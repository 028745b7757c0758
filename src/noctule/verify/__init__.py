"""Floor 6: proof: the simulator, the verification of a running cluster, the bench."""
