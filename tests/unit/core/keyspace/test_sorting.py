"""SORT: what is refused, and in which order the rest comes. Bytes are compared with Redis in tests/integration."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.core.keyspace.commands import COMMANDS
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import Failure, Reply

NOW_MS = 1_000


@pytest.fixture
def keyspace() -> Keyspace:
    keyspace = Keyspace()
    for line in (b"RPUSH list 3 -1 1e1 3", b"SADD set b a c", b"ZADD zset 1 z 2 y 3 x", b"SET text v"):
        keyspace.execute(line.split(), NOW_MS)
    return keyspace


def answer(keyspace: Keyspace, line: bytes) -> Reply:
    return keyspace.execute(line.split(), NOW_MS)


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"SORT list", [b"-1", b"3", b"3", b"1e1"]),
        (b"SORT list DESC LIMIT 1 2", [b"3", b"3"]),
        (b"SORT list LIMIT -5 -7 ALPHA", [b"-1", b"1e1", b"3", b"3"]),
        (b"SORT list BY nosort DESC", [b"3", b"1e1", b"-1", b"3"]),
        (b"SORT set BY nosort", [b"a", b"b", b"c"]),
        (b"SORT zset BY nosort LIMIT 1 5", [b"y", b"x"]),
        (b"SORT_RO set ALPHA GET # GET # LIMIT 0 1", [b"a", b"a"]),
        (b"SORT none", []),
        (b"SORT zset", Failure(b"ERR One or more scores can't be converted into double")),
        (b"SORT text", Failure(b"WRONGTYPE Operation against a key holding the wrong kind of value")),
        (b"SORT list BY w_*", Failure(b"ERR BY option of SORT denied in cluster mode.")),
        (b"SORT list GET w_*", Failure(b"ERR GET option of SORT denied in cluster mode.")),
        (b"SORT list LIMIT 1", Failure(b"ERR syntax error")),
        (b"SORT list LIMIT 1 x", Failure(b"ERR value is not an integer or out of range")),
        (b"SORT_RO list STORE to", Failure(b"ERR syntax error")),
        (b"SORT text NX", Failure(b"ERR syntax error")),
    ],
)
def test_replies(keyspace: Keyspace, line: bytes, reply: Reply) -> None:
    assert answer(keyspace, line) == reply


def test_the_outcome_takes_the_place_of_what_was_there(keyspace: Keyspace) -> None:
    assert answer(keyspace, b"PEXPIRE text 9999") == 1
    assert answer(keyspace, b"SORT list STORE text") == 4
    assert answer(keyspace, b"LRANGE text 0 -1") == [b"-1", b"3", b"3", b"1e1"]
    assert answer(keyspace, b"PTTL text") == -1
    assert answer(keyspace, b"SORT zset STORE text") == answer(keyspace, b"SORT zset")
    assert answer(keyspace, b"SORT list STORE list") == 4
    assert answer(keyspace, b"SORT none STORE text") == 0
    assert answer(keyspace, b"EXISTS text") == 0
    keyspace.check()


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        (b"SORT a", [b"a"]),
        (b"SORT a STORE b", [b"a", b"b"]),
        (b"SORT a store b LIMIT STORE x STORE STORE", [b"a", b"STORE"]),
        (b"SORT a BY STORE GET STORE c", [b"a"]),
        (b"SORT a STORE", [b"a"]),
    ],
)
def test_keys_are_found_wherever_they_stand(line: bytes, keys: list[bytes]) -> None:
    assert list(COMMANDS[b"SORT"].keys(line.split())) == keys


@given(st.lists(st.floats(allow_nan=False).map(lambda number: b"%r" % number)), st.booleans())
def test_numbers_come_in_their_order_however_they_are_spelt(items: list[bytes], is_descending: bool) -> None:
    keyspace = Keyspace()
    if items:
        keyspace.execute([b"RPUSH", b"k", *items], NOW_MS)
    reply = keyspace.execute([b"SORT", b"k", *([b"DESC"] if is_descending else [])], NOW_MS)
    assert isinstance(reply, list)
    found = [float(item) for item in reply if isinstance(item, bytes)]
    assert found == sorted(map(float, items), reverse=is_descending)
    assert sorted(item for item in reply if isinstance(item, bytes)) == sorted(items)
