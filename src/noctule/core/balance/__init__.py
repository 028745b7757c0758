"""Which instance gets the next request, and whether any should.

For a gateway balancer.py (least connections), for a client p2c.py (the better of two). For both: outliers.py (who
stands out by failing), retry_budget.py, breaker.py, and window.py, which these count with.
"""
