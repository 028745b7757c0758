"""Consul's key-value store: keys in order, who holds which, lock-delays, and when what was deleted."""

from collections.abc import Sequence

from msgspec import structs

from noctule.base.errors import RequestError
from noctule.core.registry.bounds import (
    KEYS_MAX,
    KV_BYTES_MAX,
    TOMBSTONES_MAX,
    require_fits,
    require_key,
    require_value,
)
from noctule.core.registry.changes import (
    AcquireKey,
    CheckIndex,
    CheckSession,
    DeleteKey,
    DeleteTree,
    ReleaseKey,
    SetKey,
)
from noctule.core.registry.moment import Moment, stamped
from noctule.core.registry.objects import KvEntry, LockDelay, Session, SessionBehavior
from noctule.core.registry.tables import Deadlines, SortedMap, Table, keys_with_prefix
from noctule.core.registry.topics import Topics

DELAYS_DROPPED_MAX = 100
"""Lock-delays that have passed, which one list drops: more than it can add, but for whole sessions that end."""


class _Entries(Table[str, KvEntry]):
    def __init__(self) -> None:
        self.sorted: SortedMap[str, KvEntry] = SortedMap()
        super().__init__(KvEntry, self.sorted)
        self.bytes_used = 0
        self.held: dict[str, set[str]] = {}
        """By session."""

    def _placed(self, key: str, before: KvEntry | None, after: KvEntry | None) -> None:
        if before is not None:
            self.bytes_used -= len(key) + len(before.value)
            if before.session:
                self.held[before.session].discard(key)
                if not self.held[before.session]:
                    del self.held[before.session]
        if after is not None:
            self.bytes_used += len(key) + len(after.value)
            if after.session:
                self.held.setdefault(after.session, set()).add(key)


class _Delays(Table[str, LockDelay]):
    def __init__(self) -> None:
        super().__init__(LockDelay)
        self.deadlines: Deadlines[str] = Deadlines()

    def _placed(self, key: str, before: LockDelay | None, after: LockDelay | None) -> None:
        self.deadlines.set(key, 0 if after is None else after.until_ms)


class KeyValues:
    """The keys. What becomes of them is told in changes.py."""

    def __init__(self, topics: Topics) -> None:
        self.entries = _Entries()
        self.delays = _Delays()
        self.tombstones: SortedMap[str, int] = SortedMap()
        """Keys that are not there, and at which index they were deleted: the last `TOMBSTONES_MAX`."""
        self.floor = topics.floor
        """The highest index of a tombstone that is forgotten."""
        self._topics = topics

    # Reading ----------------------------------------------------------------------------------------------------------

    def with_prefix(self, prefix: str) -> Sequence[KvEntry]:
        """Those keys, in order; costs what is found."""
        return [self.entries.rows[key] for key in keys_with_prefix(self.entries.sorted, prefix)]

    def index_of(self, key: str) -> int:
        """When the key was last written or deleted."""
        entry = self.entries.get(key)
        return entry.modify_index if entry is not None else self.tombstones.get(key, self.floor)

    def index_of_prefix(self, prefix: str) -> int:
        """When any key with the prefix was last written or deleted; costs what is found."""
        written = (entry.modify_index for entry in self.with_prefix(prefix))
        deleted = (self.tombstones[key] for key in keys_with_prefix(self.tombstones, prefix))
        return max(max(written, default=0), max(deleted, default=0), self.floor)

    # What is asked ----------------------------------------------------------------------------------------------------

    def set(self, change: SetKey, at: Moment) -> bool:
        """See `SetKey`."""
        before = self.entries.get(change.key)
        if change.cas is not None and change.cas != (0 if before is None else before.modify_index):
            return False
        kept = KvEntry(change.key) if before is None else before
        self._write(structs.replace(kept, value=change.value, flags=change.flags), at)
        return True

    def acquire(self, change: AcquireKey, at: Moment) -> bool:
        """See `AcquireKey`; that there is such a session was checked before."""
        before = self.entries.get(change.key) or KvEntry(change.key)
        delay = self.delays.get(change.key)
        if before.session not in ("", change.session) or (delay is not None and delay.until_ms > at.now_ms):
            return False
        entry = structs.replace(
            before,
            value=change.value,
            flags=change.flags,
            session=change.session,
            lock_index=before.lock_index + (before.session != change.session),
        )
        self._write(entry, at)
        return True

    def release(self, change: ReleaseKey, at: Moment) -> bool:
        """See `ReleaseKey`."""
        before = self.entries.get(change.key)
        if before is None or not before.session or before.session != change.session:
            return False
        self._write(structs.replace(before, value=change.value, flags=change.flags, session=""), at)
        return True

    def delete(self, change: DeleteKey, at: Moment) -> bool:
        """See `DeleteKey`."""
        before = self.entries.get(change.key)
        if before is not None:
            if change.cas is not None and change.cas != before.modify_index:
                return False
            self._remove(change.key)
        return True

    def delete_tree(self, change: DeleteTree) -> None:
        """See `DeleteTree`."""
        # From the last one on, so that the order moves as little as may be.
        for key in reversed(keys_with_prefix(self.entries.sorted, change.prefix)):
            self._remove(key)

    def check_index(self, change: CheckIndex) -> None:
        """See `CheckIndex`."""
        entry = self.entries.get(change.key)
        found = 0 if entry is None else entry.modify_index
        if found != change.index:
            raise RequestError(f"key {change.key!r} has the modify index {found}, and not {change.index}")

    def check_session(self, change: CheckSession) -> None:
        """See `CheckSession`."""
        entry = self.entries.get(change.key)
        if entry is None or entry.session != change.session:
            raise RequestError(f"key {change.key!r} is not held by session {change.session!r}")

    # What follows -----------------------------------------------------------------------------------------------------

    def lose(self, session: Session, at: Moment) -> None:
        """The session has ended: what it held is free, or gone, and cannot be acquired before its lock-delay."""
        for key in sorted(self.entries.held.get(session.id, ())):
            if session.lock_delay_ms:
                self.delays.put(key, LockDelay(key, at.now_ms + session.lock_delay_ms))
            if session.behavior is SessionBehavior.DELETE:
                self._remove(key)
            else:
                self._write(structs.replace(self.entries.rows[key], session=""), at)

    def drop_passed_delays(self, at: Moment) -> None:
        """Forget lock-delays that no longer matter."""
        for _, key in self.delays.deadlines.due(at.now_ms, DELAYS_DROPPED_MAX):
            self.delays.remove(key)

    def commit(self, at: Moment) -> None:
        """The list is done: remember what it deleted."""
        for key, entry in self.entries.touched():
            self.tombstones.pop(key, None)
            if entry is None:
                self.tombstones[key] = at.index
        while len(self.tombstones) > TOMBSTONES_MAX:
            oldest = self.tombstones.oldest()
            self.floor = self.tombstones.pop(oldest)

    def _write(self, entry: KvEntry, at: Moment) -> None:
        before = self.entries.get(entry.key)
        entry = stamped(entry, before, at)
        if entry is before:
            return
        if before is None:
            require_key(entry.key)
            require_fits(len(self.entries.rows) + 1, KEYS_MAX, "number of keys")
        require_value(entry.value, entry.flags)
        self.entries.put(entry.key, entry)
        require_fits(self.entries.bytes_used, KV_BYTES_MAX, "bytes of all keys and values")
        self._topics.touch(f"key:{entry.key}")

    def _remove(self, key: str) -> None:
        self.entries.remove(key)
        self._topics.touch(f"key:{key}")
