"""The settings of one Raft group: equal on all its replicas, except `first_timeout_s`."""

from dataclasses import dataclass
from typing import Final

from noctule.base.errors import ConfigError

WATCHED_PATIENCE: Final = 10
"""Where groups go quiet, nodes are watched, and who is gone is told. A leader and followers whose nodes seem alive then
wait for each other so many election timeouts: the timers are left with what nobody can tell, and thousands of groups do
not elect because a busy machine was late."""


@dataclass(frozen=True)
class RaftConfig:
    """Times in seconds of the handed-in clock, sizes in bytes of entry data."""

    heartbeat_s: float = 0.05
    """Between a leader's heartbeats. Smaller costs messages while idle; larger makes commits known later."""
    election_timeout_s_min: float = 0.5
    """How long a leader may be silent before anyone campaigns. Below ten heartbeats a busy machine elects in vain."""
    election_timeout_s_max: float = 1.0
    """Each wait is drawn between the two; a narrow range splits votes (paper 9.3)."""
    suspicion_s_max: float = 0.03
    """The wait is drawn below this instead once the leader's process seems gone."""
    lease_s: float = 0.0
    """How long a follower that heard its leader promises to elect no other, whatever it suspects; 0 is never, and the
    leader then has no lease to read by. A leader that dies is replaced so much later (ADR 0015)."""
    quiet_after_s: float = 0.0
    """When nothing happened for so long, and everyone who lives has everything, the group goes quiet: no heartbeats and
    no timers until something happens (ADR 0017). 0 is never. Else whoever drives the group must tell it by `Suspect`
    and `Trust` which nodes live, or a dead leader is never missed."""
    clock_drift_max: float = 0.05
    """By how much the rates of two nodes' monotonic clocks may differ. A lease is counted so much shorter; beyond it a
    read by lease may be stale."""
    append_bytes_max: int = 1 << 20
    """Entry data in one Append; one entry may be larger and then goes alone."""
    apply_entries_max: int = 256
    """Entries handed out for applying at a time: the rest of a long commit follows in later turns, so that no turn is
    held for long."""
    apply_bytes_max: int = 256 << 10
    """Entry data handed out for applying at a time; one entry may be larger and is then handed out alone."""
    in_flight_max: int = 4
    """Appends on their way to one follower; more only lengthen the queue (etcd measured 2 to 4 as enough)."""
    uncommitted_bytes_max: int = 64 << 20
    """Entry data that a leader holds uncommitted; over it proposals are refused and nothing happened."""
    chunk_bytes_max: int = 256 << 10
    """A snapshot's chunk is full at that size, in its file and on its way; one value may make it larger. A chunk is
    made and read in one go: 256 KiB take 1 to 4 ms of the loop."""
    snapshot_bytes_per_s: int = 0
    """How fast a leader sends a snapshot to one follower at most; 0 is as fast as it goes. What a replica begins with:
    `RaftNode.snapshot_bytes_per_s` may be changed while it runs."""
    snapshot_bytes_max: int = 4 << 30
    """A longer snapshot is refused by whoever receives it."""
    retained_entries: int = 2_000
    """Entries kept behind a snapshot, so that a follower just behind needs no snapshot. While one is being sent, those
    behind it are kept however many they are: else the follower would need the next one, and so for ever."""

    retained_bytes_max: int = 32 << 20
    """Entry data kept behind a snapshot, whatever the number of entries."""

    def validate(self) -> None:
        """Raise `ConfigError` that names every problem at once."""
        problems = []
        if not 0 < self.heartbeat_s * 3 <= self.election_timeout_s_min:
            problems.append("election_timeout_s_min must be at least three heartbeats")
        if self.election_timeout_s_max < self.election_timeout_s_min * 1.2:
            problems.append("election_timeout_s_max must be at least 1.2 times election_timeout_s_min")
        if self.lease_s and not 2 * self.heartbeat_s <= self.lease_s <= self.election_timeout_s_min:
            problems.append("lease_s must be 0, or between two heartbeats and election_timeout_s_min")
        if self.quiet_after_s < 0:
            problems.append("quiet_after_s must be at least 0")
        if not 0 <= self.clock_drift_max < 1:
            problems.append("clock_drift_max must be at least 0 and below 1")
        problems.extend(
            f"{name} must be at least 1"
            for name in (
                "append_bytes_max",
                "apply_entries_max",
                "in_flight_max",
                "uncommitted_bytes_max",
                "chunk_bytes_max",
            )
            if getattr(self, name) < 1
        )
        if problems:
            raise ConfigError("; ".join(problems))
