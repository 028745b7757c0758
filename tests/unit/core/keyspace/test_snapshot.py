"""Snapshots: bounded chunks, and nonsense is refused with a sentence."""

from collections.abc import Callable
from random import Random

import msgspec
import pytest

from noctule.base.errors import InternalError, StorageError
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.snapshot import CHUNK_BYTES_TARGET, FORMAT, FORMAT_WITH_CONTAINERS


@pytest.fixture
def keyspace() -> Keyspace:
    keyspace = Keyspace()
    for number in range(100):
        keyspace.execute([b"SET", b"k%d" % number, bytes(100)], 1)
        keyspace.execute([b"HSET", b"h%d" % (number // 50), b"f%d" % number, bytes(100)], 1)
    keyspace.execute([b"PEXPIRE", b"h0", b"1000"], 1)
    return keyspace


def encoded(*fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


def test_chunks_are_bounded_even_for_one_large_hash(keyspace: Keyspace) -> None:
    chunks = list(keyspace.picture().chunks(1_000))
    assert len(chunks) > 20
    assert max(map(len, chunks)) < 1_300
    loaded = Keyspace.load(chunks)
    loaded.check()
    assert loaded.slots == keyspace.slots
    assert loaded.deadlines == keyspace.deadlines


def test_large_sets_are_cut_into_parts() -> None:
    keyspace, other = Keyspace(), Keyspace()
    members = [b"member:%d" % number for number in range(100_000)]
    for start in range(0, len(members), 1_000):
        some = members[start : start + 1_000]
        keyspace.execute([b"SADD", b"s", *some], 1)
        keyspace.execute([b"ZADD", b"z", *(word for member in some for word in (member[-2:].strip(b":"), member))], 1)
        other.execute([b"SADD", b"s", *members[len(members) - start - 1_000 : len(members) - start]], 1)
    chunks = list(keyspace.picture().chunks())
    assert len(chunks) > 10
    assert max(map(len, chunks)) < CHUNK_BYTES_TARGET + 1_000
    loaded = Keyspace.load(chunks)
    loaded.check()
    assert loaded.slots == keyspace.slots
    assert loaded.bytes_used == keyspace.bytes_used
    keyspace.execute([b"DEL", b"z"], 1)
    assert keyspace.digest() == other.digest()


def test_an_empty_keyspace_has_a_chunk() -> None:
    chunks = list(Keyspace().picture().chunks())
    assert len(chunks) == 1
    assert Keyspace.load(chunks).key_count == 0


def test_a_missing_doubled_or_moved_chunk_is_noticed(keyspace: Keyspace) -> None:
    chunks = list(keyspace.picture().chunks(1_000))
    for damaged in (chunks[:-1], chunks[1:], [chunks[0], *chunks], chunks[::-1], [*chunks, chunks[-1]], []):
        with pytest.raises(StorageError, match="snapshot"):
            Keyspace.load(damaged)


def test_no_damaged_byte_raises_anything_but_a_storage_error(keyspace: Keyspace) -> None:
    """Most damage cannot be seen here (the storage's checksum sees it), but none may crash the process."""
    chance = Random(7)
    chunks = list(keyspace.picture().chunks(4_000))
    noticed = 0
    for _ in range(500):
        number = chance.randrange(len(chunks))
        damaged = bytearray(chunks[number])
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        try:
            Keyspace.load([*chunks[:number], bytes(damaged), *chunks[number + 1 :]])
        except StorageError:
            noticed += 1
    assert noticed > 0


@pytest.mark.parametrize(
    ("chunk", "sentence"),
    [
        (b"", "cannot be read"),
        (b"nonsense", "cannot be read"),
        (encoded(FORMAT, 0, True, [(b"k", 5, None)]), "cannot be read"),
        (encoded(FORMAT, 0, True, [(b"k", b"v", "soon")]), "cannot be read"),
        (encoded(FORMAT_WITH_CONTAINERS + 1, 0, True, []), "format 4, this version reads up to 3"),
        (encoded(FORMAT, 3, True, []), "chunk 3 stands where chunk 0"),
        (encoded(FORMAT, 0, True, [(b"h", {}, None)]), "without fields"),
        (encoded(FORMAT, 0, True, [(b"k", b"v", None), (b"k", b"w", None)]), "twice"),
        (encoded(FORMAT, 0, True, [(b"h", {b"f": b""}, None), (b"k", b"", None), (b"h", {b"g": b""}, None)]), "twice"),
        (encoded(FORMAT, 0, False, []), "the last is not among them"),
    ],
)
def test_nonsense(chunk: bytes, sentence: str) -> None:
    with pytest.raises(StorageError, match=sentence):
        Keyspace.load([chunk])


def _slot_is_wrong(keyspace: Keyspace) -> None:
    keyspace.slots[1] = {b"k1": b""}


def _slot_is_empty(keyspace: Keyspace) -> None:
    keyspace.slots[1] = {}


def _hash_is_empty(keyspace: Keyspace) -> None:
    keyspace.put(b"empty", {})


def _count_is_wrong(keyspace: Keyspace) -> None:
    keyspace.key_count += 1


def _size_is_wrong(keyspace: Keyspace) -> None:
    keyspace.bytes_used += 1


def _deadline_has_no_key(keyspace: Keyspace) -> None:
    keyspace.set_deadline(b"absent", 1)


def _deadline_is_not_awaited(keyspace: Keyspace) -> None:
    keyspace.deadlines[b"h0"] += 1


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_slot_is_wrong, "its own slot"),
        (_slot_is_empty, "without keys"),
        (_hash_is_empty, "never empty"),
        (_count_is_wrong, "key count"),
        (_size_is_wrong, "the size"),
        (_deadline_has_no_key, "only a key that is present"),
        (_deadline_is_not_awaited, "in the heap"),
    ],
)
def test_check_notices_a_broken_invariant(
    keyspace: Keyspace, damage: Callable[[Keyspace], None], sentence: str
) -> None:
    keyspace.check()
    damage(keyspace)
    with pytest.raises(InternalError, match=sentence):
        keyspace.check()
