"""The names of things, as types that cannot be mixed up."""

from typing import NewType

NodeId = NewType("NodeId", int)
"""A node of the cluster: 1 or more, chosen by the operator, never reused."""

GroupId = NewType("GroupId", int)
"""One Raft group: 0 is *meta*, 1…N are the partitions of the keyspace in slot order."""

META_GROUP = GroupId(0)
"""The group that holds the service registry; on every node."""

Term = NewType("Term", int)
"""A Raft term: 0 before the first election, never falls."""

Index = NewType("Index", int)
"""A position in a Raft log: the first entry is 1; 0 means "before the log"."""

Instant = NewType("Instant", float)
"""A point on one process' monotonic clock, in seconds. Never compared between processes."""

END_OF_TIME = Instant(float("inf"))
"""Later than every other instant: what is due then is never due."""

WallMs = NewType("WallMs", int)
"""Milliseconds since 1970-01-01 UTC by the clock of whoever says so; may jump.

Only a leader's stamp inside a log entry decides anything by it."""
