"""Histories of client operations, and whether any correct store could have answered so.

Read history.py, models.py, timeline.py, moves.py, linearizable.py; shrink.py, explain.py, picture.py; list_append.py,
graph.py; judge.py. sample.py makes histories to try them on.
"""
