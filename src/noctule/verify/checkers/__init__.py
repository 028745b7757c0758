"""Histories of client operations, and whether any correct store could have answered so.

Read history.py, models.py, linearizable.py, shrink.py, list_append.py, graph.py, judge.py, picture.py.
"""
