"""Which instance gets the next request, and whether any should.

For a gateway routing.py (which service), then balancer.py (which instance: rules.py, instances.py, hash_ring.py); for a
client p2c.py (the better of two). For both: outliers.py (who stands out by failing), retry_budget.py, breaker.py, and
window.py, which these count with.
"""
