"""Which instance gets the next request, and whether any should.

Read balancer.py (least connections), outliers.py (who stands out by failing), retry_budget.py, and window.py below them.
"""
