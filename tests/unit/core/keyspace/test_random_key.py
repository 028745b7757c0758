"""Keys and fields that are drawn by lot."""

from collections import Counter

from noctule.core.keyspace.commands import COMMANDS
from noctule.core.keyspace.fan_out import fan_out
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import Failure, Pairs


def test_every_key_is_drawn_about_as_often() -> None:
    keyspace = Keyspace()
    for number in range(10):
        keyspace.execute([b"SET", b"{same}%d" % number if number < 5 else b"%d" % number, b""], 0)
    drawn = Counter(keyspace.read([b"RANDOMKEY"], now_ms) for now_ms in range(5_000))
    assert len(drawn) == 10
    assert min(drawn.values()) > 350


def test_an_expired_key_is_not_drawn() -> None:
    keyspace = Keyspace()
    for number in range(200):
        keyspace.execute([b"SET", b"%d" % number, b"", b"PX", b"10"], 0)
    assert keyspace.read([b"RANDOMKEY"], 20) is None
    keyspace.execute([b"SET", b"alive", b""], 20)
    assert {keyspace.read([b"RANDOMKEY"], now_ms) for now_ms in range(20, 60)} == {b"alive"}


def test_a_key_of_many_partitions_is_one_of_theirs() -> None:
    fan = fan_out(COMMANDS[b"RANDOMKEY"], [b"RANDOMKEY"], [1] * 8_000 + [2] * 8_384)
    assert not isinstance(fan, Failure)
    assert [part[1][-1] for part in fan.parts] == [b"RANDOMKEY"] * 2
    assert fan.merge([None, None]) is None
    assert fan.merge([None, b"b"]) == b"b"
    assert {fan.merge([b"a%d" % number, b"b"]) == b"b" for number in range(20)} == {True, False}
    keyspace = Keyspace()
    keyspace.execute([b"SET", b"a", b""], 0)  # Slot 15495.
    assert [keyspace.read(args, 0) for _, args in fan.parts] == [None, b"a"]


def test_fields_are_drawn_once_or_again_and_again() -> None:
    keyspace = Keyspace()
    keyspace.execute([b"HSET", b"h", *(b"%d" % number for number in range(40))], 0)
    once = keyspace.read([b"HRANDFIELD", b"h", b"5"], 1)
    assert isinstance(once, list)
    assert len({*once}) == 5  # type: ignore[arg-type]
    again = keyspace.read([b"HRANDFIELD", b"h", b"-100", b"WITHVALUES"], 1)
    assert isinstance(again, Pairs)
    assert len(again.items) == 100
    assert all(int(value) == int(field) + 1 for field, value in again.items)  # type: ignore[arg-type]
    assert keyspace.read([b"HRANDFIELD", b"h", b"100"], 1) == [b"%d" % number for number in range(0, 40, 2)]
    assert isinstance(keyspace.read([b"HRANDFIELD", b"h", b"-100001"], 1), Failure)
