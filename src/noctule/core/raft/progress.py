"""The leader's view of one follower: what it has, what to send next, and how much may be on its way.

Three states, as in etcd's raft (`design.md`, "Progress"): PROBE sends one message and waits, since where the logs
part is not known; REPLICATE sends ahead, a few messages at a time; SNAPSHOT sends chunks, since the entries
the follower needs are compacted away.
"""

from enum import StrEnum

from noctule.base.ids import Instant
from noctule.core.raft.outgoing_snapshot import OutgoingSnapshot


class ProgressState(StrEnum):
    """How the leader sends to this follower."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """Always ``0 <= match < next``. The leader creates one for each other voter when it begins its term."""

    __slots__ = (
        "heard",
        "heard_at",
        "in_flight",
        "is_away",
        "match",
        "match_before",
        "next",
        "probe_sent",
        "responsive",
        "round",
        "snapshot",
        "state",
    )

    def __init__(self, next_index: int) -> None:
        self.match = 0
        self.next = next_index
        self.state = ProgressState.PROBE
        self.probe_sent = False
        """In PROBE: a message is out; the next goes after its answer or a heartbeat's."""
        self.in_flight: list[int] = []
        """In REPLICATE: the last index of each message that is not answered yet."""
        self.match_before = 0
        """What matched at the last heartbeat."""
        self.responsive = False
        """Whether it answered a heartbeat since it was last sent something again."""
        self.heard = True
        """Whether the follower said anything since the last quorum check."""
        self.heard_at = Instant(float("-inf"))
        """When it last said anything in this term."""
        self.is_away = False
        """Whether its process seems gone: a group does not stay awake for it."""
        self.round = 0
        """The newest read round it confirmed."""
        self.snapshot: OutgoingSnapshot | None = None
        """In SNAPSHOT: what is on its way; None while it is being opened."""

    def hear(self, now: Instant) -> None:
        """It said something."""
        self.heard, self.heard_at = True, now
        self.is_away = False

    def keeps_up(self, last_index: int, lag_entries_max: int) -> bool:
        """Whether it could lead at once, or nearly: it said what it has, and lacks less than so many entries.

        Who said nothing yet may lack everything, however short the log is: a group that is being
        handed over to it takes no writes until that is given up.
        """
        return self.match > 0 and last_index - self.match < lag_entries_max

    def become_probe(self) -> None:
        """Find the place again, from what is known to match."""
        self.next = self.match + 1
        self._become(ProgressState.PROBE)

    def become_replicate(self) -> None:
        """The place is known: send ahead."""
        self.next = self.match + 1
        self._become(ProgressState.REPLICATE)

    def become_snapshot(self) -> None:
        """Entries will not do."""
        self._become(ProgressState.SNAPSHOT)

    def _become(self, state: ProgressState) -> None:
        self.state = state
        self.probe_sent = False
        self.in_flight.clear()
        self.snapshot = None

    def acknowledge(self, index: int) -> bool:
        """Take note that the follower has everything up to `index`; False when that is no news."""
        while self.in_flight and self.in_flight[0] <= index:
            del self.in_flight[0]
        self.probe_sent = False
        self.next = max(self.next, index + 1)
        if index <= self.match:
            return False
        self.match = index
        return True
