"""Floor 1: the rules. Deterministic: no I/O, no tasks, no clock, no chance that is not handed in; may import base.

Rooms: placement (slots and partitions), raft (consensus of one group), keyspace (the data model), balance
(load balancing), wire (bytes to messages and back), pubsub (who hears what is published), replica (raft and keyspace of
one partition behind one door).
Every machine has handle(event, now) -> effects, next_deadline(), check() and describe().
"""
