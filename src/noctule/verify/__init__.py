"""Floor 6: proof: the simulator, the checkers of histories, the verification of a running cluster, the bench."""
