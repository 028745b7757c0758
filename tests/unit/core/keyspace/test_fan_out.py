"""Split and merged commands answer as one keyspace would."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.ids import GroupId
from noctule.core.keyspace.commands import check_command
from noctule.core.keyspace.fan_out import FanOut, fan_out, fan_out_over, partition_of
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.keyspace.spec import CommandSpec, Scope
from noctule.core.placement.slots import key_slot, partition_table, slot_range

CROSS_SLOT = Failure(b"CROSSSLOT Keys in request don't hash to the same slot")


class Partitioned:
    """Several keyspaces behind one face, as the router makes of them."""

    def __init__(self, count: int) -> None:
        self.table = partition_table(count)
        self.keyspaces = {group: Keyspace() for group in self.table}

    def execute(self, args: list[bytes]) -> Reply:
        spec = check_command(args)
        if isinstance(spec, Failure):
            return spec
        if spec.scope is Scope.KEY:
            group = partition_of(spec, args, self.table)
            return group if isinstance(group, Failure) else self.keyspaces[group].execute(args, 1)
        parted = fan_out(spec, args, self.table)
        if isinstance(parted, Failure):
            return parted
        return parted.merge([self.keyspaces[group].execute(part, 1) for group, part in parted.parts])

    def execute_over(self, runs: list[tuple[int, int]], args: list[bytes]) -> Reply:
        parted = fan_out_over(spec_of(args), args, self.table, runs)
        if isinstance(parted, Failure):
            return parted
        return parted.merge([self.keyspaces[group].execute(part, 1) for group, part in parted.parts])


def spec_of(args: list[bytes]) -> CommandSpec:
    spec = check_command(args)
    assert isinstance(spec, CommandSpec)
    return spec


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_many_partitions_answer_as_one(count: int) -> None:
    chance = Random(count)
    one, many = Keyspace(), Partitioned(count)
    for _ in range(2_000):
        name = chance.choice([b"MGET", b"MSET", b"DEL", b"UNLINK", b"EXISTS", b"TOUCH", b"DBSIZE", b"KEYS", b"HSET"])
        args = [b"k%d" % chance.randrange(30) for _ in range(chance.randint(1, 6))]
        match name:
            case b"MSET":
                args = [word for key in args for word in (key, b"%d" % chance.randrange(100))]
            case b"HSET":
                args = [b"hash" + args[0], b"f", b"v"]
            case b"KEYS":
                args = [chance.choice([b"*", b"k1*"])]
            case b"DBSIZE":
                args = []
        expected, found = one.execute([name, *args], 1), many.execute([name, *args])
        if name == b"KEYS":
            assert isinstance(found, list)
            found = sorted(found)
        assert found == expected, (name, args)
    assert sum(keyspace.key_count for keyspace in many.keyspaces.values()) == one.key_count > 0


@pytest.mark.parametrize("count", [1, 2, 5, 100])
@pytest.mark.parametrize("size", [b"3", b"1000"])
def test_scan_walks_over_all_partitions(count: int, size: bytes) -> None:
    many = Partitioned(count)
    keys = {b"key%d" % number for number in range(300)}
    for key in keys:
        many.execute([b"SET", key, b""])
    found: list[bytes] = []
    cursor, calls = b"0", 0
    while calls == 0 or cursor != b"0":
        calls += 1
        before = int(cursor)
        reply = many.execute([b"SCAN", cursor, b"COUNT", size])
        assert isinstance(reply, list)
        after, names = reply
        assert isinstance(after, bytes)
        assert isinstance(names, list)
        assert after == b"0" or int(after) > before
        cursor = after
        found += [name for name in names if isinstance(name, bytes)]
    assert sorted(found) == sorted(keys)
    assert calls >= count


def test_scan_of_a_cursor_that_is_none() -> None:
    many = Partitioned(3)
    assert many.execute([b"SCAN", b"x"]) == Failure(b"ERR invalid cursor")
    assert many.execute([b"SCAN", b"%d" % (2**64 - 1)]) == [b"0", []]
    assert many.execute([b"SCAN", b"0", b"bogus", b"x"]) == Failure(b"ERR syntax error")


def test_flush_reaches_every_partition() -> None:
    many = Partitioned(4)
    many.execute([b"MSET", b"a", b"1", b"b", b"2", b"c", b"3"])
    many.execute([b"FLUSHALL"])
    assert many.execute([b"DBSIZE"]) == 0
    assert many.execute([b"FLUSHALL", b"later"]) == Failure(b"ERR syntax error")


@pytest.mark.parametrize("line", ["MSETNX a 1 b 2", "RENAME a b", "RENAMENX a b", "COPY a b"])
def test_what_must_be_atomic_is_not_split(line: str) -> None:
    table = partition_table(2)
    assert table[key_slot(b"a")] != table[key_slot(b"b")]
    args = line.encode().split()
    assert partition_of(spec_of(args), args, table) == CROSS_SLOT
    assert fan_out(spec_of(args), args, table) == CROSS_SLOT
    tagged = line.replace("a", "{t}a").replace("b", "{t}b").encode().split()
    tagged[0] = args[0]
    assert partition_of(spec_of(tagged), tagged, table) == table[key_slot(b"t")]


def test_a_pair_without_its_value_reaches_no_partition() -> None:
    args = [b"MSET", b"a", b"1", b"b"]
    refused = Failure(b"ERR wrong number of arguments for 'mset' command")
    assert fan_out(spec_of(args), args, partition_table(2)) == refused


def test_a_failure_of_one_part_is_the_reply() -> None:
    args = [b"DEL", b"a", b"b"]
    parted = fan_out(spec_of(args), args, partition_table(2))
    assert isinstance(parted, FanOut)
    assert sorted(parted.parts) == [(GroupId(1), [b"DEL", b"b"]), (GroupId(2), [b"DEL", b"a"])]
    assert parted.merge([1, Failure(b"UNKNOWN no answer")]) == Failure(b"UNKNOWN no answer")
    assert parted.merge([1, 1]) == 2


def test_a_bucket_is_listed_once_every_partition_has_it() -> None:
    """Declared in part, when a partition did not answer, changes of some of its keys would be refused."""
    many = Partitioned(3)
    assert many.execute([b"BUCKET.CREATE", b"likes", b"counter", b"s"]) == OK
    first = next(iter(many.keyspaces.values()))
    first.execute([b"BUCKET.CREATE", b"half", b"lww", b"s"], 1)
    assert many.execute([b"BUCKET.LIST"]) == {b"likes": b"counter"}
    assert many.execute([b"BUCKET.CREATE", b"half", b"lww", b"s"]) == OK
    assert many.execute([b"BUCKET.LIST"]) == {b"likes": b"counter", b"half": b"lww"}
    assert many.execute([b"BUCKET.CREATE", b"half", b"counter", b"s"]) == Failure(b"ERR the bucket is of kind lww")


@given(st.integers(1, 9), st.sets(st.integers(1, 9)), st.integers(1, 30))
def test_commands_on_all_keys_are_about_the_slots_asked_for(count: int, led: set[int], size: int) -> None:
    """As the cluster face asks: the partitions led by one node, in runs with gaps between them."""
    many, runs, keys = Partitioned(count), list[tuple[int, int]](), [b"k%d" % number for number in range(60)]
    for group in sorted(led & set(many.table)):
        first, last = slot_range(GroupId(group), count)
        if runs and runs[-1][1] + 1 == first:
            runs[-1] = (runs[-1][0], last)
        else:
            runs.append((first, last))
    for key in keys:
        many.execute([b"SET", key, b"v"])
    wanted = {key for key in keys if many.table[key_slot(key)] in led}

    found, cursor, calls = list[bytes](), b"0", 0
    while not calls or cursor != b"0":
        cursor, piece = many.execute_over(runs, [b"SCAN", cursor, b"COUNT", b"%d" % size])
        found += piece
        calls += 1
        assert calls < 200
    assert sorted(found) == sorted(wanted), "each key once"
    assert many.execute_over(runs, [b"DBSIZE"]) == len(wanted)
    assert set(many.execute_over(runs, [b"KEYS", b"*"])) == wanted
    assert many.execute_over(runs, [b"FLUSHALL"]) == OK
    assert many.execute([b"DBSIZE"]) == len(keys) - len(wanted)


def test_a_scan_goes_on_within_the_last_slot_of_a_run() -> None:
    many, slot = Partitioned(3), key_slot(b"{tag}")
    keys = sorted(b"{tag}%d" % number for number in range(20))
    for key in keys:
        many.execute([b"SET", key, b"v"])
    found, cursor = list[bytes](), b"0"
    for _ in range(100):
        cursor, piece = many.execute_over([(slot - 9, slot), (slot + 5, slot + 9)], [b"SCAN", cursor, b"COUNT", b"1"])
        found += piece
        if cursor == b"0":
            break
    assert sorted(found) == keys
