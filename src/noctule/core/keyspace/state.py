"""What one partition holds: values by slot, deadlines, and the counts that follow them.

Every change of the data goes through the methods here, so that the counts, the deadline heap and the cached scan
orders stay true. Nothing here knows what has expired: `Keyspace` removes a command's expired keys before its
handler runs, so that a handler only ever meets keys that live. Read keyspace.py next.

Who wants the data of one moment shares it (`share`), which costs the number of slots and not of keys: a slot's dict is
copied at the first write to it afterwards, a hash likewise, and what a deadline was before it changed is noted for
whoever still looks at it. So no pause depends on more than the keys of one slot or the fields of one hash.
"""

from binascii import crc32, crc_hqx
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeAlias, TypeVar
from weakref import ref

from noctule.base.ensure import ensure
from noctule.core.keyspace.bucket import Bucket
from noctule.core.keyspace.container import Container, Undo
from noctule.core.keyspace.crdt import CrdtValue
from noctule.core.keyspace.deadlines_then import DeadlinesThen
from noctule.core.keyspace.failures import WRONG_TYPE
from noctule.core.keyspace.recount import Recount
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.territory import Territory
from noctule.core.keyspace.watches import Watches
from noctule.core.placement.slots import BRACE, SLOT_COUNT, SLOT_MASK, key_slot

if TYPE_CHECKING:
    from noctule.core.keyspace.staging import Staging

Value: TypeAlias = bytes | dict[bytes, bytes] | CrdtValue | Container
"""A string, a hash of fields or another container, which are never empty, or a value that can be joined."""
C = TypeVar("C", bound=Container)
_H = TypeVar("_H", bound=dict[bytes, bytes] | Container)

NOT_A_STRING = (dict, CrdtValue, Container)
NOT_A_HASH = (bytes, CrdtValue, Container)


KEY_COST_BYTES: Final = 150
"""What CPython takes for a key beside its own bytes: two object headers and a dict entry at its usual load."""
FIELD_COST_BYTES: Final = 150
"""The same for one field of a hash."""
CRDT_COST_BYTES: Final = 90
"""The object around a value that can be joined, and the header of its bytes."""
DEADLINE_COST_BYTES: Final = 220
"""A number, a dict entry, and an entry of the heap."""

HEAP_SLACK: Final = 64
"""Stale heap entries that are tolerated beside twice the number of deadlines."""
ORDERS_MAX: Final = 8
"""Slots whose scan order is kept at one time."""


class _Journal(NamedTuple):
    """How to take back what was changed since it was begun."""

    steps: list[Undo]
    key_count: int
    bytes_used: int


class State:
    """The data of one partition. `slots` and `deadlines` are for reading; only methods change them."""

    __slots__ = (
        "_heap",
        "_is_shared",
        "_journal",
        "_lookers",
        "_orders",
        "_own_values",
        "_recount",
        "_shared_slots",
        "answers_alike",
        "awaited",
        "buckets",
        "bytes_used",
        "deadlines",
        "digests_asked",
        "first_slot",
        "key_count",
        "last_slot",
        "published",
        "ready",
        "slots",
        "split_off",
        "staging",
        "territory",
        "watches",
    )

    def __init__(self) -> None:
        self.slots: dict[int, dict[bytes, Value]] = {}
        """Slot to keys to values; a slot without keys is absent."""
        self.deadlines: dict[bytes, int] = {}
        """The unix time in ms from which a key counts as absent, for the keys that have one."""
        self.buckets: dict[bytes, Bucket] = {}
        """The declared buckets, by name; they are no keys, and `clear` keeps them."""
        self.key_count = 0
        self.bytes_used = 0
        """An estimate of the memory held, a function of the data alone; within a quarter of what tracemalloc finds."""
        self.territory: Territory | None = None
        """The slots held here; None where every key is at home, as in *meta*. Changed by the commands in reshape.py."""
        self.first_slot, self.last_slot = 0, SLOT_COUNT - 1
        """Both inclusive, of what a command may be about: the territory's; no slot at all while that is fenced."""
        self.staging: Staging | None = None
        self.split_off: list[tuple[int, Self]] = []
        """Children and their states, for whoever applies the log to take out."""
        self.answers_alike = False
        """Whether replies, too, must be the same on every replica, in whatever order its keys and fields came: what a
        logged transaction answers is kept with the client's session, which is part of what is compared."""
        self.digests_asked: list[bytes] = []
        """Nonces of digests that were ordered, for whoever applies the log to take out."""
        self.published: list[tuple[bool, bytes, bytes]] = []
        """Sharded or not, channel and payload of what was published, for whoever applies the log to take out."""
        self.awaited: dict[bytes, dict[tuple[int, bytes], int]] = {}
        """Keys to the nodes that wait for a value of a type there, and until when: awaited.py. No part of the data."""
        self.ready: list[tuple[int, bytes, bytes]] = []
        """Nodes, and keys that are now of the type they wait for, for whoever applies the log to take out."""
        self.watches = Watches()
        """Who watches which keys: watches.py. No part of the data."""
        self._heap: list[tuple[int, bytes]] = []
        self._orders: dict[int, list[tuple[int, bytes]]] = {}
        self._is_shared = False
        """Whether the data was ever shared; else every hash and container is this state's own."""
        self._shared_slots: set[int] = set()
        """Those whose dict was not written since it was shared."""
        self._own_values: set[bytes] = set()
        """Keys of hashes and containers that nobody else has seen since the data was last shared."""
        self._journal: _Journal | None = None
        self._recount: Recount[Value] | None = None
        """What is left to be counted since the last cut."""
        self._lookers: list[ref[DeadlinesThen]] = []
        """Whoever may still look at deadlines as they were; the dead ones are found at the next sharing."""

    def execute(self, args: Sequence[bytes], now_ms: int) -> Reply:
        """Apply one command, for those that are made of commands; `Keyspace` knows how."""
        raise NotImplementedError

    def share(self) -> tuple[dict[int, dict[bytes, Value]], DeadlinesThen]:
        """The slots and deadlines of this moment, to be read only, untouched by what is written later.

        May be read by another thread, a slot at a time. Costs the number of slots.
        """
        self._is_shared = True
        self._shared_slots.update(self.slots)
        self._own_values = set()
        then = DeadlinesThen(self.deadlines)
        self._lookers = [looker for looker in self._lookers if looker() is not None]
        self._lookers.append(ref(then))
        return self.slots.copy(), then

    def put_new(self, records: Iterable[tuple[bytes, Value, int | None]]) -> bool:
        """Put keys that are not there yet, each with its deadline or None, as fast as may be.

        False when one was there already, or a hash is empty: the state is of no use then.
        """
        slots, deadlines = self.slots, self.deadlines
        count = size = 0
        for key, value, deadline in records:
            slot = crc_hqx(key, 0) & SLOT_MASK if BRACE not in key else key_slot(key)
            values = slots.get(slot)
            if values is None:
                values = slots[slot] = {}
            elif key in values:
                return False
            if isinstance(value, bytes):
                size += len(key) + len(value)
            elif isinstance(value, CrdtValue) or value:
                if isinstance(value, Container):
                    value.counted_bytes = value.size_bytes
                size += len(key) + value_bytes(value)
            else:
                return False
            values[key] = value
            count += 1
            if deadline is not None:
                deadlines[key] = deadline
                heappush(self._heap, (deadline, key))
                size += DEADLINE_COST_BYTES
        self.key_count += count
        self.bytes_used += KEY_COST_BYTES * count + size
        return True

    def get(self, key: bytes) -> Value | None:
        """The value, or None. A hash is for reading: change it by `put_fields` and `remove_fields` only; a container
        by what `change` returns."""
        values = self.slots.get(key_slot(key))
        return None if values is None else values.get(key)

    def find(self, key: bytes, kind: type[C]) -> C | Failure | None:
        """The container of this kind at the key, for reading; None without the key; WRONGTYPE for another value."""
        value = self.get(key)
        return value if value is None or isinstance(value, kind) else WRONG_TYPE

    def change(self, key: bytes, held: C) -> C:
        """Lend out the container at `key`, which is `held`, for changes by its own methods; `changed` must follow.

        It is another one when somebody still looks at the former.
        """
        if self._is_shared and key not in self._own_values:
            counted_bytes, held = held.counted_bytes, held.copy()
            held.counted_bytes = counted_bytes
            self._own(key, held)
        if key in self.watches.unbroken:
            # Steps of its own, which tell whether there was a change at all.
            held.undo = []
        elif self._journal is not None:
            held.undo = self._journal.steps
        if self._journal is not None:
            self._journal.steps.append(partial(setattr, held, "counted_bytes", held.counted_bytes))
        return held

    def changed(self, key: bytes, held: Container) -> None:
        """What `change` lent out is changed: count it, and remove the key if nothing is left."""
        if held.undo and key in self.watches.unbroken:
            self._break_watches(key)
            if self._journal is not None:
                self._journal.steps.extend(held.undo)
        held.undo = None
        self.bytes_used += held.size_bytes - held.counted_bytes
        held.counted_bytes = held.size_bytes
        if not held:
            self.remove(key)
        elif held.take_news() and self.awaited:
            self._tell_ready(key, held)

    def put(self, key: bytes, value: Value) -> None:
        """Set the value and keep the deadline, if any. The state owns the value from now on."""
        slot = key_slot(key)
        values = self.slots.get(slot)
        if values is None:
            values = self.slots[slot] = {}
        elif slot in self._shared_slots:
            values = self._own_slot(slot)
        old = values.get(key)
        if self.watches.unbroken:
            self._break_watches(key)
        if self._journal is not None:
            self._journal.steps.append(partial(self.remove, key) if old is None else partial(self.put, key, old))
        if isinstance(value, bytes):
            size = len(value)
        else:
            size = value_bytes(value)
            if isinstance(value, Container):
                value.counted_bytes = size
                value.take_news()  # To be put here is news, whatever was in it before.
                if self.awaited:
                    self._tell_ready(key, value)
        if old is None:
            self.key_count += 1
            self.bytes_used += KEY_COST_BYTES + len(key) + size
            if slot in self._orders:
                insort(self._orders[slot], (crc32(key), key))
        else:
            self.bytes_used += size - value_bytes(old)
            if self._own_values:
                self._own_values.discard(key)
        values[key] = value

    def _tell_ready(self, key: bytes, value: Container) -> None:
        """Something was put or added where somebody may wait for it; to stay there, unless a journal is kept."""
        nodes = self.awaited.get(key)
        if nodes is None or self._journal is not None:
            return
        for node, kind in [who for who in nodes if who[1] == value.type_name]:
            del nodes[node, kind]
            self.ready.append((node, key, kind))
        if not nodes:
            del self.awaited[key]

    def replace(self, key: bytes, value: Value, deadline: int | None) -> None:
        """Set the value and the deadline; None means that the key does not expire."""
        self.put(key, value)
        if deadline is not None:
            self.set_deadline(key, deadline)
        elif key in self.deadlines:
            self.clear_deadline(key)

    def remove(self, key: bytes) -> bool:
        """Remove the key with its deadline; whether it was there."""
        slot = key_slot(key)
        values = self.slots.get(slot)
        if values is None or key not in values:
            return False
        if slot in self._shared_slots:
            values = self._own_slot(slot)
        old = values.pop(key)
        if self.watches.unbroken:
            self._break_watches(key)
        if self._journal is not None:
            self._journal.steps.append(partial(self.put, key, old))
        if not values:
            del self.slots[slot]
        self._own_values.discard(key)
        self.key_count -= 1
        self.bytes_used -= KEY_COST_BYTES + len(key) + value_bytes(old)
        if key in self.deadlines:
            self.clear_deadline(key)
        order = self._orders.get(slot)
        if order is not None:
            del order[bisect_left(order, (crc32(key), key))]
        return True

    def put_fields(self, key: bytes, held: dict[bytes, bytes], fields: Iterable[tuple[bytes, bytes]]) -> int:
        """Set fields of the hash at `key`, which is `held`; how many of them are new. It may be another dict then."""
        if self._is_shared and key not in self._own_values:
            held = self._own(key, held.copy())
        if self.watches.unbroken:
            self._break_watches(key)
        count = len(held)
        added = 0
        steps = None if self._journal is None else self._journal.steps
        for field, value in fields:
            old = held.get(field)
            if steps is not None:
                steps.append(partial(_set_back, held, field, old))
            held[field] = value
            if old is None:
                added += FIELD_COST_BYTES + len(field) + len(value)
            else:
                added += len(value) - len(old)
        self.bytes_used += added
        return len(held) - count

    def remove_fields(self, key: bytes, held: dict[bytes, bytes], names: Iterable[bytes]) -> int:
        """Remove fields of the hash at `key`, which is `held`, and the key with the last; how many were there."""
        if self._is_shared and key not in self._own_values:
            held = self._own(key, held.copy())
        count = len(held)
        for name in names:
            old = held.pop(name, None)
            if old is not None:
                if self._journal is not None:
                    self._journal.steps.append(partial(_set_back, held, name, old))
                self.bytes_used -= FIELD_COST_BYTES + len(name) + len(old)
        removed = count - len(held)
        if removed and self.watches.unbroken:
            self._break_watches(key)
        if not held:
            self.remove(key)
        return removed

    def _own_slot(self, slot: int) -> dict[bytes, Value]:
        """The dict of a shared slot, from now on this state's own."""
        values = self.slots[slot] = self.slots[slot].copy()
        self._shared_slots.remove(slot)
        return values

    def _own(self, key: bytes, copied: _H) -> _H:
        """Put a copy of the hash or container at a key in its place, from now on this state's own."""
        slot = key_slot(key)
        values = self._own_slot(slot) if slot in self._shared_slots else self.slots[slot]
        values[key] = copied
        self._own_values.add(key)
        return copied

    # A journal: what is changed may be taken back ---------------------------------------------------------------------

    def begin_journal(self) -> None:
        """Note every change of keys, deadlines, buckets from now on, until `roll_back`. Not for splits and merges."""
        ensure(self._journal is None, "one journal at a time")
        self._journal = _Journal([], self.key_count, self.bytes_used)

    def roll_back(self) -> None:
        """Take everything back that was changed since `begin_journal`; costs the changes, whatever the data's size."""
        ensure(self._journal is not None, "a journal was begun")
        assert self._journal is not None
        journal, self._journal = self._journal, None
        for step in reversed(journal.steps):
            step()
        self.key_count, self.bytes_used = journal.key_count, journal.bytes_used

    def watch(self, key: bytes, token: bytes) -> None:
        """Note who watches the key from now on."""
        if self.watches.add(key, token) and self._journal is not None:
            self._journal.steps.append(partial(self.watches.end, key, token))

    def _break_watches(self, key: bytes) -> None:
        """The key is about to be changed, or was; unless that is taken back, whoever watches it comes too late."""
        tokens = self.watches.break_(key)
        if tokens and self._journal is not None:
            # Before the step that takes the change back, so done after it, which is a change as well.
            self._journal.steps.append(partial(self.watches.mend, key, tokens))

    def publish(self, channel: bytes, payload: bytes, *, sharded: bool) -> None:
        """Note that this is to be told to subscribers, by whoever applies the log."""
        self.published.append((sharded, channel, payload))
        if self._journal is not None:
            self._journal.steps.append(self.published.pop)

    def set_deadline(self, key: bytes, deadline: int) -> None:
        """Let a key that is present expire at this unix time in ms."""
        if self.watches.unbroken:
            self._break_watches(key)
        old = self.deadlines.get(key)
        if old == deadline:
            return
        if old is None:
            self.bytes_used += DEADLINE_COST_BYTES
        if self._lookers:
            self._note_deadline(key, old)
        if self._journal is not None:
            back = partial(self.clear_deadline, key) if old is None else partial(self.set_deadline, key, old)
            self._journal.steps.append(back)
        self.deadlines[key] = deadline
        heappush(self._heap, (deadline, key))
        self._compact_heap()

    def clear_deadline(self, key: bytes) -> bool:
        """Let the key live on; whether it had a deadline."""
        old = self.deadlines.get(key)
        if old is None:
            return False
        if self.watches.unbroken:
            self._break_watches(key)
        if self._lookers:
            self._note_deadline(key, old)
        if self._journal is not None:
            self._journal.steps.append(partial(self.set_deadline, key, old))
        del self.deadlines[key]
        self.bytes_used -= DEADLINE_COST_BYTES
        self._compact_heap()
        return True

    def declare_bucket(self, name: bytes, bucket: Bucket) -> None:
        """Let the keys that begin with the name and a colon be those of a bucket. Replaces the dict, as `clear` does
        with the keys."""
        if self._journal is not None:
            self._journal.steps.append(partial(setattr, self, "buckets", self.buckets))
        self.buckets = {**self.buckets, name: bucket}

    def clear(self) -> None:
        """Remove every key. Replaces the dicts, so that whoever reads the old ones is not disturbed."""
        for key in list(self.watches.unbroken):
            if self.get(key) is not None:
                self._break_watches(key)
        if self._journal is not None:
            names = ("slots", "deadlines", "_heap", "_orders", "_shared_slots", "_own_values", "_lookers", "_recount")
            self._journal.steps.extend(partial(setattr, self, name, getattr(self, name)) for name in names)
        self.slots = {}
        self.deadlines = {}
        self.key_count = 0
        self.bytes_used = 0
        self._heap = []
        self._orders = {}
        self._shared_slots = set()
        self._own_values = set()
        self._lookers = []
        self._recount = None

    def clear_slots(self, first: int, last: int) -> None:
        """Remove what is in these slots, both inclusive; costs every key of theirs unless that is everything."""
        cleared = [slot for slot in self.slots if first <= slot <= last]
        if len(cleared) == len(self.slots):
            self.clear()
            return
        for slot in cleared:
            for key in list(self.slots[slot]):
                self.remove(key)

    def hold(self, territory: Territory | None) -> None:
        """Take the territory, or what has changed in it, for granted from now on."""
        self.territory = territory
        self.first_slot, self.last_slot = 0, SLOT_COUNT - 1
        if territory is not None:
            self.first_slot, self.last_slot = territory.first, territory.last
            if territory.fenced:
                self.first_slot, self.last_slot = SLOT_COUNT, -1

    def cut(self, at_slot: int) -> Self:
        """Move the slots from `at_slot` on, with all that belongs to them, to a new state. Copies no data.

        Costs the number of slots and of deadlines, and not of keys: until `count_on` has looked at all of them, which
        is to be called in slices, `bytes_used` is an estimate in both halves. Replaces the outer dict, as `clear` does,
        and shares all slots, so whoever looks at an earlier moment is not disturbed.
        """
        self._count_all()
        half = type(self)()
        half.buckets = self.buckets
        half.slots = {slot: values for slot, values in self.slots.items() if slot >= at_slot}
        half.key_count = sum(map(len, half.slots.values()))
        half.bytes_used = self.bytes_used * half.key_count // max(self.key_count, 1)
        self.slots = {slot: values for slot, values in self.slots.items() if slot < at_slot}
        self.key_count -= half.key_count
        self.bytes_used -= half.bytes_used
        half._orders = {slot: order for slot, order in self._orders.items() if slot >= at_slot}
        self._orders = {slot: order for slot, order in self._orders.items() if slot < at_slot}
        # Those of the other half, and their entries in the heap, do no harm: each half is asked for its own keys only.
        half.deadlines, half._heap = self.deadlines.copy(), self._heap.copy()
        self._begin_recount(lambda slot: slot < at_slot)
        half._begin_recount(lambda slot: slot >= at_slot)
        return half

    def _begin_recount(self, is_own: Callable[[int], bool]) -> None:
        self._is_shared, self._own_values = True, set()
        self._shared_slots = set(self.slots)
        self._recount = Recount(
            self.slots.values(),
            self.deadlines,
            is_own=is_own,
            size_of=_slot_bytes,
            deadline_bytes=DEADLINE_COST_BYTES,
            estimate=self.bytes_used,
        )

    @property
    def is_fenced(self) -> bool:
        """Whether nothing is answered or changed here, since all of it is about to be part of a neighbour."""
        return self.territory is not None and self.territory.fenced != 0

    @property
    def is_counting(self) -> bool:
        """Whether `count_on` has something left to look at."""
        return self._recount is not None

    def count_on(self) -> None:
        """One slice, of a few milliseconds, of what a cut has left to be counted."""
        recount = self._recount
        if recount is None:
            return
        for key in recount.work():
            if self._lookers:
                self._note_deadline(key, self.deadlines.get(key))
            self.deadlines.pop(key, None)
        if recount.is_done:
            self.bytes_used += recount.correction
            self._recount = None
            self._compact_heap()

    def _count_all(self) -> None:
        while self._recount is not None:
            self.count_on()

    def join(self, other: "State") -> None:
        """Take in everything of another state, which has no slot in common with this one and is not used any more."""
        ensure(self.slots.keys().isdisjoint(other.slots), "what is joined has other slots")
        self._count_all()
        other._count_all()
        self.buckets = other.buckets | self.buckets
        self.slots = self.slots | other.slots
        self.deadlines = self.deadlines | other.deadlines
        self.key_count += other.key_count
        self.bytes_used += other.bytes_used
        self._lookers = []
        self._is_shared |= other._is_shared
        self._shared_slots |= other._shared_slots
        self._own_values |= other._own_values
        self._rebuild_heap()

    def live_keys(self, now_ms: int, first: int = 0, last: int = SLOT_COUNT - 1) -> Iterator[bytes]:
        """Every key of these slots (both inclusive) that has not expired, in no particular order."""
        deadlines = self.deadlines
        for slot, values in self.slots.items():
            if not first <= slot <= last:
                continue
            for key in values:
                deadline = deadlines.get(key)
                if deadline is None or deadline > now_ms:
                    yield key

    @property
    def first_deadline_ms(self) -> int | None:
        """No key that is there expires before this; None when none ever does. May be that of a key which is gone."""
        return self._heap[0][0] if self._heap else None

    def expired_keys(self, now_ms: int, limit: int) -> list[bytes]:
        """At most `limit` keys whose deadline has passed, the longest expired first; changes no data.

        The same keys come again until they are removed. Costs the keys found, not the keys held.
        """
        found: dict[bytes, int] = {}
        heap = self._heap
        while heap and heap[0][0] <= now_ms and len(found) < limit:
            deadline, key = heappop(heap)
            if self.deadlines.get(key) == deadline and (self._recount is None or self.get(key) is not None):
                found[key] = deadline
        for key, deadline in found.items():
            heappush(heap, (deadline, key))
        return list(found)

    def slot_order(self, slot: int) -> list[tuple[int, bytes]]:
        """The (crc32, key) pairs of a slot in their order, kept up to date while it is among the last few asked for.

        That makes a scan of a slot with very many keys (one hash tag) pay for the order once and not in every
        piece. Read only.
        """
        order = self._orders.get(slot)
        if order is None:
            order = scan_order(self.slots[slot])
            if len(self._orders) == ORDERS_MAX:
                del self._orders[next(iter(self._orders))]
            self._orders[slot] = order
        return order

    def check(self) -> None:
        """Raise `InternalError` unless the slots, deadlines, counts, heap and orders agree. Costs every key."""
        count = size = 0
        territory = self.territory
        for slot, values in self.slots.items():
            ensure(values, "a slot without keys is absent", slot=slot)
            is_home = territory is None or territory.first <= slot <= territory.last
            ensure(is_home, "only slots of the territory are held", slot=slot)
            for key, value in values.items():
                ensure(key_slot(key) == slot, "a key stands in its own slot", key=key, slot=slot)
                ensure(not isinstance(value, (dict, Container)) or value, "a container is never empty", key=key)
                count += 1
                size += KEY_COST_BYTES + len(key) + value_bytes(value)
        ensure(self.key_count == count, "the key count is true", counted=count, kept=self.key_count)
        for slot, order in self._orders.items():
            ensure(order == scan_order(self.slots.get(slot, {})), "a kept scan order is true", slot=slot)
        if self._recount is not None:
            return
        for key in self.deadlines:
            ensure(self.get(key) is not None, "only a key that is present has a deadline", key=key)
        size += DEADLINE_COST_BYTES * len(self.deadlines)
        ensure(self.bytes_used == size, "the size is true", counted=size, kept=self.bytes_used)
        awaited = {(deadline, key) for key, deadline in self.deadlines.items()}
        ensure(awaited <= set(self._heap), "every deadline is in the heap")
        ensure(len(self._heap) <= 2 * len(awaited) + HEAP_SLACK, "the heap is bounded", entries=len(self._heap))

    def _note_deadline(self, key: bytes, deadline: int | None) -> None:
        for looker in self._lookers:
            then = looker()
            if then is not None:
                then.note(key, deadline)

    def _compact_heap(self) -> None:
        if len(self._heap) > 2 * len(self.deadlines) + HEAP_SLACK:
            self._rebuild_heap()

    def _rebuild_heap(self) -> None:
        self._heap = [(deadline, key) for key, deadline in self.deadlines.items()]
        heapify(self._heap)


def _set_back(fields: dict[bytes, bytes], name: bytes, value: bytes | None) -> None:
    if value is None:
        del fields[name]
    else:
        fields[name] = value


def value_bytes(value: Value) -> int:
    """What a value adds to `bytes_used`."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, CrdtValue):
        return len(value.data) + CRDT_COST_BYTES
    if isinstance(value, Container):
        return value.size_bytes
    return sum(map(len, value)) + sum(map(len, value.values())) + FIELD_COST_BYTES * len(value)


def _slot_bytes(values: dict[bytes, Value]) -> int:
    """What a slot's keys add to `bytes_used` beside their deadlines."""
    held = values.values()
    # A split counts a million of them in one go; nearly all of them are strings.
    sizes = map(len, held) if set(map(type, held)) == {bytes} else map(value_bytes, held)  # type: ignore[arg-type]
    return KEY_COST_BYTES * len(values) + sum(map(len, values)) + sum(sizes)


def scan_order(values: Iterable[bytes]) -> list[tuple[int, bytes]]:
    """The keys with their positions, a function of the keys alone, in the order in which a scan meets them."""
    return sorted((crc32(key), key) for key in values)
