"""Floor 1: who hears what is published on one node. Deterministic: no I/O, no asyncio, no clock.

May import base, core.keyspace and core.wire. Read message.py first, then subscriptions.py.
"""
