"""A stream: entries in the order of their ids, and the groups of consumers that share them out. Commands: streams.py.

Every change is one of the small methods here, each with its inverse, so that the size stays true and a journal can take
all of it back in what the change cost. Unlike other containers a stream goes on existing without entries.
"""

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, NamedTuple, Self, TypeAlias

import msgspec

from noctule.core.keyspace.container import Container, Undo
from noctule.core.keyspace.id_map import IdMap
from noctule.core.keyspace.stream_ids import LARGEST_ID, LARGEST_PART, SEQUENCE_BITS

Fields: TypeAlias = tuple[bytes, ...]
"""Field, value, field, value…"""

ENTRY_COST_BYTES = 120
"""What CPython takes for an entry beside its fields: its id, a tuple, its places in a dict and in a list."""
FIELD_COST_BYTES = 41
"""For one field or value beside its own bytes."""
GROUP_COST_BYTES = 600
CONSUMER_COST_BYTES = 350
PENDING_COST_BYTES = 170
"""For an entry that was given to a consumer: a number, a tuple, and its places in two dicts and lists."""


class Pending(NamedTuple):
    """An entry that was given to a consumer, who has not acknowledged it."""

    given_ms: int
    """When that was the last time, unix ms."""
    times: int
    """How often it was given."""


class Consumer:
    """One member of a group."""

    __slots__ = ("pending", "seen_ms")

    def __init__(self, seen_ms: int) -> None:
        self.seen_ms = seen_ms
        """When it was last heard of, unix ms."""
        self.pending: IdMap[Pending] = IdMap()


class ConsumerGroup:
    """Consumers that share the entries of a stream; to be read, and changed by the stream's methods only."""

    __slots__ = ("consumers", "entries_read", "last_id", "pending")

    def __init__(self, last_id: int, entries_read: int | None) -> None:
        self.last_id = last_id
        """Of the entry that was given out last."""
        self.entries_read = entries_read
        """How many entries there ever were up to it; None when that is not known."""
        self.consumers: dict[bytes, Consumer] = {}
        self.pending: IdMap[bytes] = IdMap()
        """Id to the name of the consumer that it is pending with."""

    def copy(self) -> Self:
        """Another group like it; a `Pending` is never changed, and so shared."""
        copied = type(self)(self.last_id, self.entries_read)
        copied.pending = self.pending.copy()
        for name, consumer in self.consumers.items():
            other = copied.consumers[name] = Consumer(consumer.seen_ms)
            other.pending = consumer.pending.copy()
        return copied


class StreamValue(Container):
    """What a stream's key holds."""

    __slots__ = ("_has_news", "entries", "entries_added", "groups", "last_id", "max_deleted_id")

    type_name: ClassVar[bytes] = b"stream"
    code: ClassVar[int] = 4

    def __init__(self) -> None:
        super().__init__()
        self.entries: IdMap[Fields] = IdMap()
        self.groups: dict[bytes, ConsumerGroup] = {}
        self.last_id = 0
        """The largest there ever was, or that XSETID has put up."""
        self.max_deleted_id = 0
        """The largest that XDEL ever removed."""
        self.entries_added = 0
        """How many there ever were."""
        self._has_news = False

    def __len__(self) -> int:
        return len(self.entries)

    def __bool__(self) -> bool:
        """A stream stays when its last entry goes: it knows its last id, and has groups."""
        return True

    @property
    def servings(self) -> int:
        """1: whether there is more is another question for each who waits, and the first one is told."""
        return 1

    def take_news(self) -> bool:
        """Whether entries were added, or can be read again; acknowledging and trimming is no news for anybody."""
        has_news, self._has_news = self._has_news, False
        return has_news

    @property
    def first_id(self) -> int:
        """The smallest id there is, 0 without entries."""
        return self.entries.first_id or 0

    # Changes of entries -----------------------------------------------------------------------------------------------

    def append(self, id_: int, fields: Fields) -> None:
        """Add an entry behind all there ever were."""
        self._note(partial(self.set_numbers, self.last_id, self.max_deleted_id, self.entries_added))
        self._put_entry(id_, fields)
        self.last_id = id_
        self.entries_added += 1
        self._has_news = True

    def delete(self, id_: int) -> bool:
        """Remove an entry; whether it was there."""
        fields = self.entries.pop(id_)
        if fields is None:
            return False
        self._note(partial(self._put_entry, id_, fields))
        self.size_bytes -= _entry_bytes(fields)
        return True

    def set_numbers(self, last_id: int, max_deleted_id: int, entries_added: int) -> None:
        """Set what the stream knows of entries that are gone."""
        self._note(partial(self.set_numbers, self.last_id, self.max_deleted_id, self.entries_added))
        self.last_id, self.max_deleted_id, self.entries_added = last_id, max_deleted_id, entries_added

    def _put_entry(self, id_: int, fields: Fields) -> None:
        self._note(partial(self.delete, id_))
        self.entries.put(id_, fields)
        self.size_bytes += _entry_bytes(fields)

    # Changes of groups ------------------------------------------------------------------------------------------------

    def add_group(self, name: bytes, group: ConsumerGroup) -> None:
        """Put a group, perhaps one with consumers, under a name that is free."""
        self._note(partial(self.drop_group, name))
        self.groups[name] = group
        self.size_bytes += _group_bytes(name, group)

    def drop_group(self, name: bytes) -> None:
        """Remove a group that is there, with all that is pending."""
        group = self.groups.pop(name)
        self._has_news = True  # Who waits for it can be told that it is gone.
        self._note(partial(self.add_group, name, group))
        self.size_bytes -= _group_bytes(name, group)

    def set_group(self, group: ConsumerGroup, last_id: int, entries_read: int | None) -> None:
        """Set how far a group has come."""
        self._note(partial(self.set_group, group, group.last_id, group.entries_read))
        self._has_news |= last_id < group.last_id
        group.last_id, group.entries_read = last_id, entries_read

    def see(self, group: ConsumerGroup, name: bytes, now_ms: int) -> None:
        """A consumer, perhaps a new one, was heard of."""
        consumer = group.consumers.get(name)
        if consumer is None:
            self._note(partial(self._forget, group, name))
            group.consumers[name] = Consumer(now_ms)
            self.size_bytes += CONSUMER_COST_BYTES + len(name)
        else:
            # By name: what is taken back first may have made this consumer anew.
            self._note(partial(self.see, group, name, consumer.seen_ms))
            consumer.seen_ms = now_ms

    def drop_consumer(self, group: ConsumerGroup, name: bytes) -> int:
        """Remove a consumer that is there; how many entries were pending with it, which are no more."""
        consumer = group.consumers[name]
        ids = [id_ for id_, _ in consumer.pending.between(0, LARGEST_ID)]
        for id_ in ids:
            self.release(group, id_)
        self._forget(group, name)
        return len(ids)

    def give(self, group: ConsumerGroup, id_: int, name: bytes, pending: Pending) -> None:
        """Let an entry be pending with a consumer that is there, and with no other one."""
        owner = group.pending.get(id_)
        if owner is None:
            self._note(partial(self.release, group, id_))
            self.size_bytes += PENDING_COST_BYTES
        else:
            before = group.consumers[owner].pending.pop(id_)
            assert before is not None
            self._note(partial(self.give, group, id_, owner, before))
        group.consumers[name].pending.put(id_, pending)
        group.pending.put(id_, name)

    def release(self, group: ConsumerGroup, id_: int) -> bool:
        """An entry is no longer pending; whether it was."""
        owner = group.pending.pop(id_)
        if owner is None:
            return False
        before = group.consumers[owner].pending.pop(id_)
        assert before is not None
        self._note(partial(self.give, group, id_, owner, before))
        self.size_bytes -= PENDING_COST_BYTES
        return True

    def _forget(self, group: ConsumerGroup, name: bytes) -> None:
        """Remove a consumer with which nothing is pending."""
        consumer = group.consumers.pop(name)
        self._note(partial(self.see, group, name, consumer.seen_ms))
        self.size_bytes -= CONSUMER_COST_BYTES + len(name)

    def _note(self, back: Undo) -> None:
        if self.undo is not None:
            self.undo.append(back)

    # As a container ---------------------------------------------------------------------------------------------------

    def copy(self) -> Self:
        """Costs all ids, and no field."""
        copied = type(self)()
        copied.size_bytes, copied.counted_bytes = self.size_bytes, self.counted_bytes
        copied.entries = self.entries.copy()
        copied.groups = {name: group.copy() for name, group in self.groups.items()}
        copied.last_id, copied.max_deleted_id, copied.entries_added = (
            self.last_id,
            self.max_deleted_id,
            self.entries_added,
        )
        return copied

    def parts(self, bytes_target: int) -> Iterator[bytes]:
        """Records as msgpack: what the stream knows, its entries, then group by group what belongs to it."""
        part: list[_Record] = []
        size = 0
        for record, record_bytes in self._records():
            if part and size + record_bytes > bytes_target:
                yield _encoder.encode(part)
                part, size = [], 0
            part.append(record)
            size += record_bytes
        yield _encoder.encode(part)

    def _records(self) -> "Iterator[tuple[_Record, int]]":
        """With the size of each, about."""
        yield _Numbers(*_split(self.last_id), *_split(self.max_deleted_id), self.entries_added), 50
        for id_, fields in self.entries.between(0, LARGEST_ID):
            yield _Entry(*_split(id_), fields), 25 + sum(map(len, fields)) + 3 * len(fields)
        for name, group in sorted(self.groups.items()):
            yield _Group(name, *_split(group.last_id), group.entries_read), 40 + len(name)
            for consumer_name, consumer in sorted(group.consumers.items()):
                yield _Consumer(consumer_name, consumer.seen_ms), 20 + len(consumer_name)
                for id_, pending in consumer.pending.between(0, LARGEST_ID):
                    yield _Given(*_split(id_), *pending), 40

    def absorb(self, part: bytes) -> None:
        """Add the records of the next piece; a consumer belongs to the group before it, and so on."""
        for record in _decoder.decode(part):
            match record:
                case _Numbers():
                    self.set_numbers(
                        _joined(record.last_ms, record.last_sequence),
                        _joined(record.deleted_ms, record.deleted_sequence),
                        record.entries_added,
                    )
                case _Entry():
                    if not record.fields or len(record.fields) % 2:
                        raise ValueError("an entry has a field without a value")
                    self._put_entry(_joined(record.ms, record.sequence), record.fields)
                case _Group():
                    self.add_group(record.name, ConsumerGroup(_joined(record.ms, record.sequence), record.entries_read))
                case _Consumer():
                    self.see(self.groups[_latest(self.groups)], record.name, record.seen_ms)
                case _Given():
                    group = self.groups[_latest(self.groups)]
                    pending = Pending(record.given_ms, record.times)
                    self.give(group, _joined(record.ms, record.sequence), _latest(group.consumers), pending)


class _Numbers(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=0):
    last_ms: int
    last_sequence: int
    deleted_ms: int
    deleted_sequence: int
    entries_added: int


class _Entry(msgspec.Struct, frozen=True, array_like=True, tag=1):
    ms: int
    sequence: int
    fields: Fields


class _Group(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    name: bytes
    ms: int
    sequence: int
    entries_read: int | None


class _Consumer(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    name: bytes
    seen_ms: int


class _Given(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    ms: int
    sequence: int
    given_ms: int
    times: int


_Record: TypeAlias = _Numbers | _Entry | _Group | _Consumer | _Given
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[_Record])


def _split(id_: int) -> tuple[int, int]:
    return id_ >> SEQUENCE_BITS, id_ & LARGEST_PART


def _joined(ms: int, sequence: int) -> int:
    return ms << SEQUENCE_BITS | sequence


def _latest(names: dict[bytes, ConsumerGroup] | dict[bytes, Consumer]) -> bytes:
    """The name that was added last."""
    if not names:
        raise ValueError("a record belongs to no group or no consumer")
    return next(reversed(names))


def _entry_bytes(fields: Fields) -> int:
    return ENTRY_COST_BYTES + FIELD_COST_BYTES * len(fields) + sum(map(len, fields))


def _group_bytes(name: bytes, group: ConsumerGroup) -> int:
    consumers = sum(CONSUMER_COST_BYTES + len(consumer) for consumer in group.consumers)
    return GROUP_COST_BYTES + len(name) + consumers + PENDING_COST_BYTES * len(group.pending)
