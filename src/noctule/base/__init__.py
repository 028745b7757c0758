"""Floor 0: ids, time, chance, errors, addresses and bounds; imports nothing of ours.

Read ids.py, then errors.py, bounds.py, clock.py and ensure.py.
"""
