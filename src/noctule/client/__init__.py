"""Floor 3: typed client of the nodes' HTTP API, for the command line, the supervisor and the verifier; never imports node."""
