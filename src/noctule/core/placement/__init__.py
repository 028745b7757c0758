"""Which slot a key has, which partition a slot, which nodes a partition, and what should be moved, split or merged.

Read slots.py, partition_map.py, then planner.py. Plain values and pure functions; nothing here carries anything out.
"""
