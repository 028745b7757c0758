"""Consensus of one group. Read messages.py, log.py, progress.py, quorum.py, node.py."""
