"""Floor 1: the replicated data model of one partition; may import base and core.placement.

Pure functions of state, command and the leader's stamped time. Read these files in this order: reply.py (what a
command answers), keyspace.py (the door), state.py (what is held), commands.py (the table), then the families
strings.py, hashes.py, sets.py with set_value.py, sorted_sets.py with sorted_set_value.py, keys.py and scan.py;
fan_out.py for commands over several partitions, transactions.py for several commands at once, databases.py for what
SELECT chooses, snapshot.py for disk, and reshape.py for splits and merges.
"""
