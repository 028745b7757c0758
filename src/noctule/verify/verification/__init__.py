"""The checks of noctule verify: each looks at a running cluster from outside and can fail."""
