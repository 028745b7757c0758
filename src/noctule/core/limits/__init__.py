"""Floor 1: rate limits as arithmetic: what a subject may do, given what it has done. No I/O, no clock.

May import base. Read policy.py (what is limited), take.py (one decision under one policy), abuse.py (what repeated
breaches lead to), picture.py (what is known of a subject). The same arithmetic runs as a script inside the store, which
the kits send; tests hold the two together.
"""
