"""Which slots a partition holds: cut off, fenced, copied, taken in, each once, whatever comes late or twice."""

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.base.errors import RequestError
from noctule.core.keyspace import recount, reshape, staging
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import MOVED, OK, Failure, Reply
from noctule.core.keyspace.snapshot import chain_digest
from noctule.core.keyspace.territory import Territory
from noctule.core.placement.slots import SLOT_COUNT, key_slot

AT = 8_000


def keyspace_of(first: int = 0, last: int = SLOT_COUNT - 1, *, keys: int = 200) -> Keyspace:
    """With strings, hashes and deadlines in its slots."""
    keyspace = Keyspace()
    keyspace.hold(Territory(first, last))
    for number in range(keys):
        key = b"k%d" % number
        if first <= key_slot(key) <= last:
            keyspace.execute([b"HSET", key, b"f", b"%d" % number] if number % 5 == 0 else [b"SET", key, b"v"], 1)
            if number % 3 == 0:
                keyspace.execute([b"PEXPIREAT", key, b"%d" % (1_000 + number)], 1)
    return keyspace


def run(keyspace: Keyspace, line: bytes) -> Reply:
    return keyspace.execute(line.split(), 5)


def split(keyspace: Keyspace, child: int, at_slot: int) -> Keyspace:
    assert run(keyspace, b"NOCTULE.SPLIT %d %d" % (child, at_slot)) is OK
    ((number, half),) = keyspace.split_off
    keyspace.split_off = []
    assert number == child
    return half


def digest_of(chunks: list[bytes]) -> bytes:
    digest = b""
    for chunk in chunks:
        digest = chain_digest(digest, chunk)
    return digest


def copy(right: Keyspace, left: Keyspace, merge: int) -> list[bytes]:
    """Fence the right side, and stage all of it at the left."""
    assert run(right, b"NOCTULE.FENCE %d" % merge) is OK
    chunks = list(reshape.dump_fenced(right, merge))
    for number, chunk in enumerate(chunks):
        assert left.execute([b"NOCTULE.ABSORB", b"%d" % merge, b"%d" % number, chunk], 5) is OK
    return chunks


def end(left: Keyspace, merge: int, chunks: list[bytes], first: int, last: int) -> Reply:
    numbers = b"%d %d %d %d" % (merge, len(chunks), first, last)
    return left.execute([b"NOCTULE.ABSORB-END", *numbers.split(), digest_of(chunks)], 5)


def pictured(keyspace: Keyspace) -> tuple[object, ...]:
    return keyspace.digest(), keyspace.territory and list(vars_of(keyspace.territory)), staged(keyspace)


def held(keyspace: Keyspace) -> tuple[int, int]:
    """The first and last slot about which it answers."""
    return keyspace.first_slot, keyspace.last_slot


def vars_of(territory: Territory) -> Iterator[int]:
    yield from (getattr(territory, name) for name in territory.__struct_fields__)


def staged(keyspace: Keyspace) -> tuple[int, int]:
    return (0, 0) if keyspace.staging is None else (keyspace.staging.id, len(keyspace.staging.chunks))


# Splits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_slot", [1, 2_000, AT, 15_000, SLOT_COUNT - 1])
def test_a_split_moves_the_slots_with_all_that_belongs_to_them(at_slot: int) -> None:
    keyspace, whole = keyspace_of(), keyspace_of()
    moved = {slot: values for slot, values in keyspace.slots.items() if slot >= at_slot}
    half = split(keyspace, 7, at_slot)
    for each in (keyspace, half):
        while each.is_counting:
            each.count_on()
        each.check()
    assert all(half.slots[slot] is values for slot, values in moved.items())  # No copy.
    assert keyspace.slots | half.slots == whole.slots
    assert keyspace.deadlines | half.deadlines == whole.deadlines
    assert keyspace.key_count + half.key_count == whole.key_count
    assert keyspace.bytes_used + half.bytes_used == whole.bytes_used
    assert [held(each) for each in (keyspace, half)] == [(0, at_slot - 1), (at_slot, SLOT_COUNT - 1)]
    assert sorted(keyspace.expired_keys(9_999, 999) + half.expired_keys(9_999, 999)) == sorted(whole.deadlines)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_what_a_split_left_to_be_counted_comes_true_whatever_is_written_meanwhile(seed: int) -> None:
    """Both halves hold each other's deadlines for a while: nothing of the other may expire, or be counted, here."""
    chance = Random(seed)
    keyspace = keyspace_of()
    then = keyspace.picture()
    before = list(keyspace_of().picture().chunks())
    half = split(keyspace, 7, chance.choice((1, 2_000, AT, 15_000)))
    names = [b"k%d" % number for number in range(260)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recount, "KEYS_AT_A_TIME", chance.choice((1, 7, 50)))
        while keyspace.is_counting or half.is_counting:
            for each in (keyspace, half):
                assert all(each.get(key) is not None for key in each.expired_keys(9_999, 999))
                for _ in range(chance.randrange(4)):
                    key = chance.choice(names)
                    each.execute(chance.choice(writes_to(key)), 5)
                each.check()
                each.count_on()
                if chance.random() < 0.02:
                    each.execute([b"NOCTULE.WRITEWITHIN", b"0", b"16383", b"FLUSHALL"], 5)
    for each in (keyspace, half):
        each.check()
        assert not each.is_counting
    assert list(then.chunks()) == before, "a picture of the whole is as it was"


def writes_to(key: bytes) -> list[list[bytes]]:
    """Some of each kind."""
    return [
        [b"SET", key, b"longer"],
        [b"SET", key, b"v", b"PX", b"5000"],
        [b"PEXPIREAT", key, b"7000"],
        [b"PERSIST", key],
        [b"DEL", key],
        [b"HSET", key, b"g", b"more"],
        [b"HDEL", key, b"f"],
    ]


def test_a_split_keeps_the_orders_of_large_slots() -> None:
    keyspace = keyspace_of()
    for number in range(600):
        keyspace.execute([b"SET", b"{k1}%d" % number, b""], 1)
        keyspace.execute([b"SET", b"{k2}%d" % number, b""], 1)
    run(keyspace, b"NOCTULE.READWITHIN 0 16383 SCAN 0 COUNT 10000")
    slots = sorted((key_slot(b"k1"), key_slot(b"k2")))
    half = split(keyspace, 7, slots[1])
    for each in (keyspace, half):
        each.execute(
            [b"SET", b"{k1}new" if each is (keyspace, half)[key_slot(b"k1") >= slots[1]] else b"{k2}new", b""], 1
        )
        each.check()
    assert len(keyspace._orders) == len(half._orders) == 1


def test_a_split_again_changes_nothing_and_an_older_child_is_not_made() -> None:
    keyspace = keyspace_of()
    split(keyspace, 7, AT)
    before = pictured(keyspace)
    for line in (b"NOCTULE.SPLIT 7 8000", b"NOCTULE.SPLIT 7 4000", b"NOCTULE.SPLIT 6 4000"):
        assert run(keyspace, line) is OK
    assert (pictured(keyspace), keyspace.split_off) == (before, [])
    split(keyspace, 8, 4_000)


@pytest.mark.parametrize(
    "line",
    [
        b"NOCTULE.SPLIT 8 0", b"NOCTULE.SPLIT 8 8000", b"NOCTULE.SPLIT 8 9000", b"NOCTULE.SPLIT x 1",
        b"NOCTULE.SPLIT 8 -1",
        b"NOCTULE.FENCE 0", b"NOCTULE.FENCE x", b"NOCTULE.UNFENCE 0", b"NOCTULE.ABSORB x 0 c", b"NOCTULE.ABSORB 3 1 c",
        b"NOCTULE.ABSORB 3 0 nonsense", b"NOCTULE.ABSORB-END 3 0 8000 9000 d", b"NOCTULE.ABSORB-DROP x",
        b"NOCTULE.ABSORB-END x 0 8000 9000 d",
    ],
)  # fmt: skip
def test_a_refusal_changes_nothing(line: bytes) -> None:
    keyspace = keyspace_of(0, AT - 1)
    before = pictured(keyspace)
    assert isinstance(run(keyspace, line), Failure)
    assert pictured(keyspace) == before
    meta = Keyspace()
    assert isinstance(run(meta, line), Failure)
    meta.check()


# What is moved --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        (b"GET b", False), (b"GET a", True), (b"RENAME b a", True), (b"RENAME a b", True), (b"MGET b a", True),
        (b"MSET b 1 {b}c 2", False), (b"DBSIZE", True), (b"FLUSHALL", True), (b"KEYS *", True), (b"SCAN 0", True),
        (b"NOCTULE.PURGE b", False), (b"NOCTULE.PURGE a", True), (b"NOCTULE.SPLIT 7 1", False), (b"PING", False),
        (b"nonsense a", False), (b"COPY b {b}c REPLACE", False),
        (b"NOCTULE.READWITHIN 0 7999 DBSIZE", False), (b"NOCTULE.READWITHIN 0 8000 KEYS *", True),
        (b"NOCTULE.WRITEWITHIN 100 7999 FLUSHALL", False), (b"NOCTULE.WRITEWITHIN 8000 16383 FLUSHALL", True),
    ],
)  # fmt: skip
def test_what_is_refused_outside_and_inside(line: bytes, moved: bool) -> None:
    keyspace = keyspace_of(0, AT - 1)
    assert key_slot(b"b") < AT <= key_slot(b"a")
    assert keyspace.is_moved(line.split()) == moved
    run(keyspace, b"NOCTULE.FENCE 3")
    knows_no_keys = line.startswith((b"NOCTULE.SPLIT", b"PING", b"nonsense"))
    assert keyspace.is_moved(line.split()) != knows_no_keys
    assert not Keyspace().is_moved(line.split())


# Merges ---------------------------------------------------------------------------------------------------------------


def test_a_merge_takes_everything_in_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right, whole = keyspace_of(0, AT - 1), keyspace_of(AT), keyspace_of()
    chunks = copy(right, left, 3)
    before = left.digest()
    assert staged(left) == (3, len(chunks))
    assert left.digest() == before  # Nobody sees what is put aside.
    assert end(left, 3, chunks, AT, SLOT_COUNT - 1) is OK
    left.check()
    assert left.digest() == whole.digest()
    assert (left.key_count, left.bytes_used, held(left)) == (whole.key_count, whole.bytes_used, held(whole))
    assert left.expired_keys(9_999, 999) == whole.expired_keys(9_999, 999)
    assert left.staging is None
    again = pictured(left)
    assert end(left, 3, chunks, AT, SLOT_COUNT - 1) is OK
    assert pictured(left) == again


def test_a_fenced_partition_is_frozen() -> None:
    """What is copied chunk by chunk, perhaps by one leader after another, must be one picture: nothing expires."""
    right = keyspace_of(AT)
    run(right, b"NOCTULE.FENCE 3")
    assert right.is_fenced
    assert run(right, b"NOCTULE.FENCE 3") is OK
    assert isinstance(run(right, b"NOCTULE.FENCE 4"), Failure)
    assert isinstance(run(right, b"NOCTULE.SPLIT 9 10000"), Failure)
    assert isinstance(run(right, b"NOCTULE.ABSORB 4 0 c"), Failure)
    assert right.is_moved([b"NOCTULE.PURGE", *right.deadlines])
    assert list(reshape.dump_fenced(right, 3)) == list(right.picture().chunks())


def test_a_dump_ends_with_the_fence() -> None:
    right = keyspace_of(AT)
    with pytest.raises(RequestError, match="not fenced"):
        next(reshape.dump_fenced(right, 3))
    run(right, b"NOCTULE.FENCE 3")
    chunks = reshape.dump_fenced(right, 3)
    run(right, b"NOCTULE.UNFENCE 3")
    with pytest.raises(RequestError, match="not fenced"):
        next(chunks)


def test_what_is_too_large_is_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reshape, "MERGE_BYTES_MAX", 1_000)
    right = keyspace_of(AT)
    run(right, b"NOCTULE.FENCE 3")
    with pytest.raises(RequestError, match="MERGE_BYTES_MAX"):
        next(reshape.dump_fenced(right, 3))
    left = keyspace_of(0, AT - 1)
    chunk = next(right.picture().chunks())
    assert b"MERGE_BYTES_MAX" in repr(left.execute([b"NOCTULE.ABSORB", b"3", b"0", chunk], 5)).encode()
    assert left.staging is None
    assert staging.MERGE_BYTES_MAX == 64 << 20


def test_chunks_are_taken_once_and_in_order() -> None:
    left, right = keyspace_of(0, AT - 1), keyspace_of(AT)
    chunks = list(right.picture().chunks(500))
    assert len(chunks) > 4

    def absorb(number: int) -> Reply:
        return left.execute([b"NOCTULE.ABSORB", b"3", b"%d" % number, chunks[number]], 5)

    assert absorb(0) is OK
    assert isinstance(absorb(2), Failure)
    assert absorb(0) is OK
    assert absorb(1) is OK
    assert staged(left) == (3, 2)
    assert isinstance(end(left, 3, chunks[:2], AT, SLOT_COUNT - 1), Failure)  # The last one is not among them.
    for number in range(2, len(chunks)):
        assert absorb(number) is OK
    assert isinstance(end(left, 3, chunks[1:], AT, SLOT_COUNT - 1), Failure)
    assert isinstance(end(left, 3, [*chunks[1:], chunks[0]], AT, SLOT_COUNT - 1), Failure)  # Another digest.
    assert isinstance(end(left, 3, chunks, AT + 1, SLOT_COUNT - 1), Failure)  # A gap.
    assert isinstance(end(left, 3, chunks, AT - 1, SLOT_COUNT - 1), Failure)
    assert isinstance(end(left, 3, chunks, AT, SLOT_COUNT), Failure)
    assert isinstance(end(left, 3, chunks, AT, AT), Failure)  # Keys of slots beyond.
    assert end(left, 3, chunks, AT, SLOT_COUNT - 1) is OK
    assert left.digest() == keyspace_of().digest()


def test_row_39_what_was_taken_back_does_not_confuse_the_next_merge() -> None:
    """tikv/tikv#6460: a rolled-back merge, and what of it comes late, neither mixes with the next one nor undoes it."""
    left, right = keyspace_of(0, AT - 1), keyspace_of(AT)
    chunks = copy(right, left, 3)
    assert run(left, b"NOCTULE.ABSORB-DROP 3") is OK
    assert run(right, b"NOCTULE.UNFENCE 3") is OK
    assert not right.is_fenced
    assert held(right) == (AT, SLOT_COUNT - 1)
    right.execute([b"SET", b"a", b"written since"], 5)
    late = [[b"NOCTULE.ABSORB", b"3", b"%d" % number, chunk] for number, chunk in enumerate(chunks)]
    for command in late:
        assert left.execute(command, 5) == reshape.TAKEN_BACK
    assert end(left, 3, chunks, AT, SLOT_COUNT - 1) == reshape.TAKEN_BACK
    assert run(right, b"NOCTULE.FENCE 3") == reshape.TAKEN_BACK
    again = copy(right, left, 4)
    for command in late:
        assert left.execute(command, 5) == reshape.TAKEN_BACK
    assert run(left, b"NOCTULE.ABSORB-DROP 3") is OK
    assert isinstance(run(right, b"NOCTULE.UNFENCE 3"), Failure)
    assert staged(left) == (4, len(again))
    assert end(left, 4, again, AT, SLOT_COUNT - 1) is OK
    assert left.get(b"a") == b"written since"
    assert run(left, b"NOCTULE.ABSORB-DROP 4") == reshape.TAKEN_IN  # Too late to take it back: the map must follow.
    left.check()


def test_a_newer_merge_clears_what_an_older_one_left() -> None:
    left, right = keyspace_of(0, AT - 1), keyspace_of(AT)
    copy(right, left, 3)
    run(right, b"NOCTULE.UNFENCE 3")
    chunks = copy(right, left, 5)
    assert staged(left) == (5, len(chunks))


def test_a_partition_that_takes_another_one_in_neither_splits_nor_is_fenced() -> None:
    left, right = keyspace_of(0, AT - 1), keyspace_of(AT)
    chunks = copy(right, left, 3)
    assert isinstance(run(left, b"NOCTULE.SPLIT 9 100"), Failure)
    assert isinstance(run(left, b"NOCTULE.FENCE 4"), Failure)
    assert run(left, b"NOCTULE.WRITEWITHIN 0 7999 FLUSHALL") is OK
    assert left.key_count == 0
    assert end(left, 3, chunks, AT, SLOT_COUNT - 1) is OK
    left.check()


def test_row_37_a_slot_that_was_split_off_meanwhile_is_not_taken_in_twice() -> None:
    """redis/redis#10370: the copy was begun for another range than the one that is held by now."""
    left, right = keyspace_of(0, AT - 1), keyspace_of(AT)
    child = split(left, 7, 4_000)
    chunks = copy(right, left, 3)
    assert isinstance(end(left, 3, chunks, AT, SLOT_COUNT - 1), Failure)
    assert held(child) == (4_000, AT - 1)


# The law --------------------------------------------------------------------------------------------------------------

KEYS = [b"k%d" % number for number in range(40)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_rows_37_to_39_no_key_is_lost_or_doubled_whatever_splits_and_merges(seed: int) -> None:
    """Random commands, splits and merges, some taken back, with doubled and late commands between, on two replicas of
    each partition that apply the same log, one of them through snapshots; against a dict."""
    chance = Random(seed)
    model: dict[bytes, bytes] = {}
    partitions: dict[int, tuple[Keyspace, Keyspace]] = {1: (keyspace_of(keys=0), keyspace_of(keys=0))}
    late: list[tuple[int, list[bytes]]] = []
    next_id = 2

    def apply(group: int, command: list[bytes], *, keep: bool = True) -> Reply:
        first, second = partitions[group]
        replies = [each.execute(command, 5) for each in (first, second)]
        assert replies[0] == replies[1]
        assert first.digest() == second.digest()
        if keep and command[0].startswith(b"NOCTULE."):
            late.append((group, command))
        return replies[0]

    def owner(key: bytes) -> int | None:
        slot = key_slot(key)
        owners = [
            group
            for group, (each, _) in partitions.items()
            if each.territory and not each.territory.fenced and each.territory.first <= slot <= each.territory.last
        ]
        assert len(owners) <= 1
        return owners[0] if owners else None

    for _ in range(chance.randrange(10, 60)):
        match chance.randrange(8):
            case 0:  # A split.
                group = chance.choice(sorted(partitions))
                territory = partitions[group][0].territory
                assert territory is not None
                at_slot = chance.randint(territory.first, territory.last)
                reply = apply(group, [b"NOCTULE.SPLIT", b"%d" % next_id, b"%d" % at_slot])
                halves = [each.split_off for each in partitions[group]]
                if halves[0]:
                    assert reply is OK
                    partitions[next_id] = (halves[0][0][1], halves[1][0][1])
                for each in partitions[group]:
                    each.split_off = []
                next_id += 1
            case 1 if len(partitions) > 1:  # A merge, perhaps taken back.
                order = sorted(partitions, key=lambda group: territory_of(partitions[group][0]).first)
                position = chance.randrange(len(order) - 1)
                left, right = order[position], order[position + 1]
                merge, next_id = next_id, next_id + 1
                number = b"%d" % merge
                apply(right, [b"NOCTULE.FENCE", number])
                chunks = list(reshape.dump_fenced(partitions[right][0], merge))
                for count, chunk in enumerate(chunks):
                    apply(left, [b"NOCTULE.ABSORB", number, b"%d" % count, chunk])
                held = territory_of(partitions[right][0])
                numbers = [number, b"%d" % len(chunks), b"%d" % held.first, b"%d" % held.last]
                finish = [b"NOCTULE.ABSORB-END", *numbers, digest_of(chunks)]
                if chance.random() < 0.5:
                    apply(left, [b"NOCTULE.ABSORB-DROP", number])
                    apply(right, [b"NOCTULE.UNFENCE", number])
                    late.append((left, finish))
                else:
                    assert apply(left, finish) is OK
                    del partitions[right]
            case 2 if late:  # What comes twice or late.
                group, command = chance.choice(late)
                is_known = group in partitions
                if is_known:
                    apply(group, command, keep=False)
                    assert not partitions[group][0].split_off
            case 3:  # One replica is another one's snapshot.
                group = chance.choice(sorted(partitions))
                first, second = partitions[group]
                loaded = Keyspace.load(second.picture().chunks(chance.choice((100, 10_000))))
                held = territory_of(second)
                loaded.hold(Territory(*vars_of(held)))
                assert second.staging is None
                partitions[group] = (first, loaded)
            case _:
                key = chance.choice(KEYS)
                where = owner(key)
                assert where is not None
                before = [first.digest() for first, _ in partitions.values()]
                for group in partitions:  # Everyone else refuses it.
                    if group != where:
                        assert apply(group, [b"SET", key, b"wrong"]) is MOVED
                        assert apply(group, [b"NOCTULE.PURGE", key]) is MOVED
                assert before == [first.digest() for first, _ in partitions.values()]
                if chance.random() < 0.7:
                    value = b"%d" % chance.randrange(100)
                    apply(where, [b"SET", key, value])
                    model[key] = value
                else:
                    apply(where, [b"DEL", key])
                    model.pop(key, None)
        found: dict[bytes, object] = {}
        for first, second in partitions.values():
            for each in (first, second):
                each.check()
            for values in first.slots.values():
                assert not values.keys() & found.keys()
                found |= values
        assert found == model
        assert sum(first.key_count for first, _ in partitions.values()) == len(model)


def territory_of(keyspace: Keyspace) -> Territory:
    assert keyspace.territory is not None
    return keyspace.territory


def test_a_picture_is_untouched_by_a_split_and_by_what_both_halves_write() -> None:
    """A snapshot may be on its way to the disk while the partition splits: dicts that are shared with it stay so."""
    keyspace = keyspace_of()
    before = list(keyspace.picture().chunks(500))
    picture = keyspace.picture()
    half = split(keyspace, 7, AT)
    for each in (keyspace, half):
        for number in range(200):
            key = b"k%d" % number
            if not each.is_moved([b"GET", key]):
                each.execute([b"HSET", key, b"g", b"new"] if number % 5 == 0 else [b"APPEND", key, b"new"], 5)
                each.execute([b"PEXPIREAT", key, b"5000"], 5)
                each.execute([b"SET", b"{k%d}new" % number, b""], 5)
        each.check()
    half.execute([b"NOCTULE.WRITEWITHIN", b"%d" % AT, b"16383", b"FLUSHALL"], 5)
    assert list(picture.chunks(500)) == before


def test_a_picture_is_untouched_by_what_is_taken_in() -> None:
    left, right = keyspace_of(0, AT - 1), keyspace_of(AT)
    chunks = copy(right, left, 3)
    before = list(left.picture().chunks(500))
    picture = left.picture()
    assert end(left, 3, chunks, AT, SLOT_COUNT - 1) is OK
    for number in range(200):
        left.execute([b"DEL", b"k%d" % number], 5)
    left.check()
    assert (left.key_count, left.bytes_used) == (0, 0)
    assert list(picture.chunks(500)) == before
