"""What the cluster knows of services: nodes, instances, checks, sessions and the keys beside them, part of *meta*.

Read objects.py (what is kept), changes.py (what may be asked), registry.py (what then happens).
"""
