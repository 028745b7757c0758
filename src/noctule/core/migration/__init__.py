"""Partitions that move, split and merge: the stages, as tables of data. Read stages.py."""
