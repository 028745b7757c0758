"""Consensus of one group. Read messages.py, events.py, log.py, progress.py, quorum.py, node.py, leadership.py."""
