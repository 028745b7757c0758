"""Floor 3: typed client of the nodes' HTTP API, for the command line, supervisor and verifier; never imports node.

Read pictures.py (what comes back), exchange.py (one request, sent once), failures.py (errors), then api.py, and
admin.py for whoever looks after a cluster.
"""
