"""Rate limits as arithmetic: what a subject may do, given what it has done.

Read policy.py (what is limited), take.py (one decision under one policy), abuse.py (what repeated breaches lead to).
The same arithmetic runs as a script inside the store (`kits/ratelimit_script.py`); tests hold the two together.
"""
