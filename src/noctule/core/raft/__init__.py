"""Consensus of one group.

Read messages.py, events.py, quorum.py, membership.py, log.py, progress.py, reads.py, incoming_snapshot.py,
node.py, leadership.py.
"""
