"""Floor 4, the DNS door of a node: the services and nodes of the registry under one domain, with Consul's names.

Read names.py (what a name asks for), healthy.py (who is to be named), zone.py (the records a name has), messages.py
(one query and its reply, as bytes), server.py (sockets and bounds). All but the last are pure: the registry's state and
chance are handed in.
"""
