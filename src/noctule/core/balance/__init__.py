"""Which instance gets the next request. Read balancer.py."""
