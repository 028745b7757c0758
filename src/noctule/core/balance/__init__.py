"""Which instance gets the next request, and whether any should.

Read routing.py (which service), then balancer.py (which instance: rules.py, instances.py, hash_ring.py), outliers.py
(who stands out by failing), retry_budget.py, and window.py below them.
"""
