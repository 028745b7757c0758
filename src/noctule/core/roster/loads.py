"""What every group costs and how it stands, as its leader tells the whole cluster about once a second.

Only what has changed is told again, so idle groups cost nothing. Lossy on purpose: whoever missed something hears it
with the next change, or as a whole when it connects anew. Nothing that must be right rests on it.
"""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from noctule.base.ids import GroupId

REPORT_GROUPS_MAX = 5_000
"""Groups in one report; more go into the next one."""
MEMORY_NEWS_SHARE = 1 / 16
"""A process that takes so much more or less than it told is news."""


class MoveProgress(Struct, array_like=True, frozen=True, gc=False):
    """How the migration of one replica of a group gets on. Fields are only ever added at the end."""

    migration: int
    stage: str
    bytes_done: int = 0
    bytes_total: int = 0
    keys_done: int = 0
    keys_total: int = 0
    entries_left: int = 0
    """Committed ones that the target lacks."""
    bytes_per_s: float = 0.0
    seconds_left: float | None = None
    """None while nobody can tell."""


class Compared(Struct, array_like=True, frozen=True, gc=False):
    """What came of comparing the replicas of a group at one entry. Fields are only ever added at the end."""

    nonce: bytes
    """By which the comparison was asked for."""
    index: int = 0
    """Of the entry as of which they were compared; 0 when no replica told anything."""
    equal: tuple[int, ...] = ()
    """The nodes whose replicas hold what most hold."""
    different: tuple[int, ...] = ()
    """Those whose replicas hold something else; where no state has a majority, all that told."""
    silent: tuple[int, ...] = ()
    """Those that told nothing in time: they are down, or took the entry in with a snapshot."""


class GroupLoad(Struct, array_like=True, frozen=True, gc=False):
    """One group, by its leader. Fields are only ever added at the end."""

    group: int
    term: int
    """In which the teller leads; of two tellers the later term is right."""
    bytes_used: int = 0
    keys: int = 0
    requests_per_s: int = 0
    """Commands in the last second."""
    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    lag_entries: dict[int, int] = {}
    """Of each other member that lacks any."""
    move: MoveProgress | None = None
    """Of the migration that is under way; told four times a second while it is."""
    split_slot: int = 0
    """Where the leader would divide it; 0 while it is far from the limits, and where no split helps."""
    split_note: str = ""
    """Why there, or why no split helps: of one hot key, its slot and a hash."""
    compared: Compared | None = None
    """What came of the newest comparison of its replicas; None while this leader has made none."""


class LoadReport(Struct, array_like=True, tag=30, frozen=True, gc=False):
    """What is new of the groups that one node leads."""

    loads: list[GroupLoad]
    memory_bytes: int = 0
    """That the teller's process takes."""


class LoadBoard:
    """What all nodes have told, and what this one has."""

    def __init__(self) -> None:
        self._loads: dict[GroupId, tuple[int, GroupLoad]] = {}
        """With the node that told it."""
        self._told: dict[GroupId, GroupLoad] = {}
        self._told_memory_bytes = 0
        self.memory_bytes: dict[int, int] = {}
        """By node."""
        self.version = 0
        """Rises with every report that tells something new."""

    def take(self, sender: int, report: LoadReport) -> None:
        """A node, perhaps this one, tells what it leads."""
        self.memory_bytes[sender] = report.memory_bytes
        self.version += bool(report.loads)
        for load in report.loads:
            group = GroupId(load.group)
            known = self._loads.get(group)
            if known is None or load.term >= known[1].term:
                self._loads[group] = (sender, load)

    def load_of(self, group: GroupId) -> GroupLoad | None:
        """The newest word of a group; None when nobody told anything."""
        known = self._loads.get(group)
        return None if known is None else known[1]

    def leader_of(self, group: GroupId) -> int:
        """Who told it: the leader then; 0 when nobody did."""
        known = self._loads.get(group)
        return 0 if known is None else known[0]

    def forget(self, group: GroupId) -> None:
        """The group is no more."""
        self.version += 1
        self._loads.pop(group, None)
        self._told.pop(group, None)

    def news(self, loads: Iterable[GroupLoad]) -> list[GroupLoad]:
        """Of what this node leads, what it has not told yet; `tell_again` makes everything news."""
        fresh = []
        for load in loads:
            if self._told.get(GroupId(load.group)) != load:
                fresh.append(load)
                if len(fresh) == REPORT_GROUPS_MAX:
                    break
        self._told.update((GroupId(load.group), load) for load in fresh)
        return fresh

    def report(self, loads: Iterable[GroupLoad], memory_bytes: int) -> LoadReport | None:
        """What is to be told to everybody of what this node leads and takes; None when nothing of it is news."""
        fresh = self.news(loads)
        change = abs(memory_bytes - self._told_memory_bytes)
        if not fresh and change <= MEMORY_NEWS_SHARE * self._told_memory_bytes:
            return None
        self._told_memory_bytes = memory_bytes
        return LoadReport(fresh, memory_bytes)

    def tell_again(self) -> None:
        """Somebody connected who has heard nothing."""
        self._told.clear()
        self._told_memory_bytes = 0

    def __iter__(self) -> Iterator[GroupLoad]:
        return (load for _, load in self._loads.values())
