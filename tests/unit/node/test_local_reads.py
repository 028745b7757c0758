"""Single keys read from this node's own replicas: what is answered at once, and where a row of answers ends."""

import pytest

from noctule.base.bounds import KEY_BYTES_MAX
from noctule.base.ids import META_GROUP, GroupId
from noctule.core.keyspace.commands import KEY_READS
from noctule.core.keyspace.failures import WRONG_TYPE
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.keyspace.territory import Territory
from noctule.core.placement.slots import SLOT_COUNT, key_slot
from noctule.node.api import READ_BYTES_MAX
from noctule.node.local_reads import read_local_keys
from tests.unit.core.replica.colony import Colony

GROUP = GroupId(1)
AFAR = GroupId(2)
NOW_MS = 1_000
SOON_MS = 2_000


class Held:
    """A replica of the only partition that is held here, and some keys in it."""

    def __init__(self) -> None:
        self.replicas = Colony(1, groups=(META_GROUP, GROUP)).machines[1].replicas
        self.slot_table = [GROUP] * SLOT_COUNT
        for line in (
            b"SET s text",
            b"SET n 12",
            b"SET gone x PXAT 2000",
            b"HSET h f 1",
            b"RPUSH l a b",
            b"SADD t m",
            b"ZADD z 1 m",
            b"XADD x 1-1 f v",
            b"BUCKET.CREATE b counter",
            b"CRDT.INCRBY b:c 3",
        ):
            self.keyspace.execute(line.split(), NOW_MS)

    @property
    def keyspace(self) -> Keyspace:
        return self.replicas[GROUP].keyspace

    def read(self, *commands: bytes | list[bytes] | Failure, start: int = 0, wall_ms: int = NOW_MS) -> list[Reply]:
        rows = [command.split() if isinstance(command, bytes) else command for command in commands]
        return read_local_keys(self.replicas, self.slot_table, rows, start, wall_ms)


@pytest.fixture(scope="module")
def held() -> Held:
    return Held()


@pytest.mark.parametrize("key", [b"s", b"n", b"h", b"l", b"t", b"z", b"x", b"b:c", b"none", b"{s}1"])
@pytest.mark.parametrize("name", [name for name in KEY_READS if name.isupper()], ids=bytes.decode)
def test_a_key_is_answered_as_by_the_long_way(held: Held, name: bytes, key: bytes) -> None:
    row = KEY_READS[name]
    command = [name, key, b"0", b"1", b"2"][: max(row.count_min, min(3, row.count_max))]
    assert held.read(command) == [held.keyspace.read(command, NOW_MS)]
    assert held.read([name.lower(), *command[1:]]) == [held.keyspace.read(command, NOW_MS)]


@pytest.mark.parametrize(
    "command",
    [
        b"SET s 1",
        b"GET",
        b"GET s n",
        b"GETRANGE s 0",
        b"MGET s",
        b"DBSIZE",
        b"PING",
        b"NOSUCH s",
        b"NOCTULE.EXPIRE s",
        b"Get s",
        [b"GET", b"k" * (KEY_BYTES_MAX + 1)],
        Failure(b"ERR too long"),
    ],
    ids=repr,
)
def test_a_row_ends_before_anything_else(held: Held, command: bytes | list[bytes] | Failure) -> None:
    assert held.read(command) == []
    assert held.read(b"GET s", b"GET n", command, b"GET s") == [b"text", b"12"]
    assert held.read(b"GET s", command, b"GET n", b"STRLEN s", b"GET none", start=2) == [b"12", 4, None]


def test_a_key_that_has_expired_is_the_leader_s_to_judge(held: Held) -> None:
    assert held.read(b"GET gone", b"STRLEN gone", wall_ms=SOON_MS - 1) == [b"x", 1]
    assert held.read(b"GET s", b"GET gone", wall_ms=SOON_MS) == [b"text"]
    assert held.read(b"STRLEN gone", wall_ms=SOON_MS) == []


def test_what_was_seen_expired_by_the_leader_s_stamp_stays_so_by_a_slow_clock() -> None:
    held = Held()
    held.replicas[GROUP].stamp_ms = SOON_MS
    assert held.read(b"GET gone", wall_ms=NOW_MS) == []


def test_a_row_ends_where_the_replica_is_elsewhere_or_nowhere() -> None:
    held = Held()
    for group in (AFAR, GroupId(0)):
        held.slot_table[key_slot(b"n")] = group
        assert held.read(b"GET s", b"GET n") == [b"text"]


def test_a_row_ends_where_the_slot_has_left_the_replica() -> None:
    """The map says so a moment later."""
    held = Held()
    slot = key_slot(b"s")
    held.keyspace.hold(Territory(slot, slot))
    assert held.read(b"GET s", b"GET n") == [b"text"]
    held.keyspace.hold(Territory(slot, slot, fenced=1))
    assert held.read(b"GET s") == []


def test_a_row_ends_with_what_is_made_of_several(held: Held) -> None:
    """Each may be as large as a key, and whoever asked for all of them must not have them in memory at once."""
    assert held.read(b"HGETALL h", b"HGETALL h") == [{b"f": b"1"}]
    assert held.read(b"GET h", b"GET s") == [WRONG_TYPE]


def test_a_row_ends_over_its_bytes() -> None:
    held = Held()
    held.keyspace.execute([b"SET", b"long", b"v" * (READ_BYTES_MAX // 2)], NOW_MS)
    assert len(held.read(*[b"GETRANGE long 0 -1"] * 5)) == 3
