"""What a stream's container promises its state: a true size, snapshots, looks at earlier moments, and ways back."""

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.base.errors import StorageError
from noctule.core.keyspace.container import CONTAINER_COST_BYTES
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.stream_ids import LARGEST_ID
from noctule.core.keyspace.stream_value import ConsumerGroup, StreamValue

from .stream_commands import PRELUDE, stream_commands

NOW_MS = 4
COMMANDS = st.lists(stream_commands(), max_size=40).flatmap(lambda each: st.sampled_from([each, PRELUDE + each]))


def ran(commands: list[list[bytes]], keyspace: Keyspace | None = None) -> Keyspace:
    keyspace = Keyspace() if keyspace is None else keyspace
    for number, command in enumerate(commands):
        keyspace.execute(command, NOW_MS + number // 8)
    return keyspace


def sized(stream: StreamValue) -> int:
    """The size of a stream that was built anew from what this one holds."""
    other = StreamValue()
    for part in stream.parts(10_000):
        other.absorb(part)
    return other.size_bytes


@settings(max_examples=300, deadline=None)
@given(COMMANDS, st.integers(1, 300))
def test_a_stream_comes_back_from_pieces_of_any_size(commands: list[list[bytes]], bytes_target: int) -> None:
    keyspace = ran(commands)
    keyspace.check()
    loaded = Keyspace.load(keyspace.picture().chunks(bytes_target))
    loaded.check()
    assert loaded.digest() == keyspace.digest()
    assert loaded.bytes_used == keyspace.bytes_used


@settings(max_examples=300, deadline=None)
@given(COMMANDS, COMMANDS)
def test_a_look_at_an_earlier_moment_is_not_disturbed(before: list[list[bytes]], after: list[list[bytes]]) -> None:
    keyspace = ran(before)
    digest, picture = keyspace.digest(), keyspace.picture()
    ran(after, keyspace)
    keyspace.check()
    assert Keyspace.load(picture.chunks(100)).digest() == digest


@settings(max_examples=400, deadline=None)
@given(COMMANDS, COMMANDS, st.booleans())
def test_rolling_back_leaves_streams_as_they_were(
    before: list[list[bytes]], noted: list[list[bytes]], shared: bool
) -> None:
    keyspace = ran(before)
    picture = keyspace.picture() if shared else None
    digest, size = keyspace.digest(), keyspace.bytes_used
    keyspace.begin_journal()
    ran(noted, keyspace)
    keyspace.roll_back()
    keyspace.check()
    assert (keyspace.digest(), keyspace.bytes_used) == (digest, size)
    if picture is not None:
        assert Keyspace.load(picture.chunks()).digest() == digest
    # It can be changed as before.
    assert ran(noted, keyspace).digest() == ran(noted, ran(before)).digest()


@settings(max_examples=200, deadline=None)
@given(COMMANDS)
def test_pending_entries_are_in_both_places_and_the_size_is_true(commands: list[list[bytes]]) -> None:
    keyspace = ran(commands)
    for key in (b"s", b"{s}t"):
        stream = keyspace.find(key, StreamValue)
        if not isinstance(stream, StreamValue):
            continue
        assert stream.size_bytes == sized(stream)
        for group in stream.groups.values():
            of_group = dict(group.pending.between(0, LARGEST_ID))
            of_consumers = {
                id_: name
                for name, consumer in group.consumers.items()
                for id_, _ in consumer.pending.between(0, LARGEST_ID)
            }
            assert of_group == of_consumers


def test_undoing_costs_the_change_and_not_the_stream() -> None:
    keyspace = ran([[b"XADD", b"s", b"1-%d" % number, b"f", b"v"] for number in range(1, 2_000)])
    keyspace.execute([b"XGROUP", b"CREATE", b"s", b"g", b"0"], NOW_MS)
    keyspace.begin_journal()
    keyspace.execute([b"XADD", b"s", b"*", b"f", b"v"], NOW_MS)
    keyspace.execute([b"XREADGROUP", b"GROUP", b"g", b"c", b"COUNT", b"1", b"STREAMS", b"s", b">"], NOW_MS)
    keyspace.execute([b"XACK", b"s", b"g", b"1-1"], NOW_MS)
    assert keyspace._journal is not None
    assert len(keyspace._journal.steps) < 20
    keyspace.roll_back()
    assert keyspace.execute([b"XLEN", b"s"], NOW_MS) == 1_999


@pytest.mark.parametrize(("field_count", "value_bytes", "is_pending"), [(1, 10, False), (4, 100, False), (1, 10, True)])
def test_the_estimate_is_within_a_quarter_of_the_memory(field_count: int, value_bytes: int, is_pending: bool) -> None:
    chance = random.Random(1)
    stream = StreamValue()
    group = ConsumerGroup(0, 0)
    stream.add_group(b"g", group)
    stream.see(group, b"c", 0)
    keyspace = Keyspace()
    keyspace.put(b"s", stream)
    tracemalloc.start()
    before, size_before = tracemalloc.get_traced_memory()[0], stream.size_bytes
    for _ in range(5_000):
        fields = [chance.randbytes(value_bytes) for _ in range(2 * field_count)]
        keyspace.execute([b"XADD", b"s", b"*", *fields], chance.randrange(2**40))
    if is_pending:
        before, size_before = tracemalloc.get_traced_memory()[0], stream.size_bytes
        read = [b"XREADGROUP", b"GROUP", b"g", b"c", b"COUNT", b"10", b"STREAMS", b"s", b">"]
        for number in range(500):
            keyspace.execute(read, 2**41 + number)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.75 < (stream.size_bytes - size_before) / used < 1.25


def test_an_empty_stream_stays_and_is_kept_by_snapshots() -> None:
    keyspace = ran([[b"XADD", b"s", b"1-1", b"f", b"v"], [b"XDEL", b"s", b"1-1"]])
    assert keyspace.execute([b"EXISTS", b"s"], NOW_MS) == 1
    keyspace.check()
    loaded = Keyspace.load(keyspace.picture().chunks())
    assert loaded.execute([b"XADD", b"s", b"1-1", b"f", b"v"], NOW_MS) == keyspace.execute(
        [b"XADD", b"s", b"1-1", b"f", b"v"], NOW_MS
    )


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"\xc1",
        b"\x91\x95\x03\xc4\x01c\x00",
        b"\x91\x93\x03\xc4\x01c\x00",
        b"\x91\x94\x01\x01\x01\x91\xc4\x01f",
        b"\x91\x95\x04\x01\x01\x01\x01",
    ],
)
def test_nonsense_in_a_snapshot_is_refused(part: bytes) -> None:
    with pytest.raises((ValueError, StorageError)):
        StreamValue().absorb(part)


def test_an_empty_one_costs_what_a_container_costs() -> None:
    assert StreamValue().size_bytes == CONTAINER_COST_BYTES


def test_a_consumer_that_was_seen_and_then_dropped_comes_back_as_it_was() -> None:
    """Dropped, it came back as another object, and when it was seen before went to the one that was gone."""
    keyspace = ran([[b"XGROUP", b"CREATE", b"s", b"g", b"0", b"MKSTREAM"], [b"XADD", b"s", b"1-0", b"f", b"v"]])
    keyspace.execute([b"XREADGROUP", b"GROUP", b"g", b"alice", b"STREAMS", b"s", b">"], NOW_MS)
    digest = keyspace.digest()
    keyspace.begin_journal()
    keyspace.execute([b"XCLAIM", b"s", b"g", b"alice", b"0", b"1-0", b"FORCE"], NOW_MS + 1)
    keyspace.execute([b"XGROUP", b"DELCONSUMER", b"s", b"g", b"alice"], NOW_MS + 1)
    keyspace.roll_back()
    assert keyspace.digest() == digest
