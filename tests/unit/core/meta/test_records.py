"""Objects as keys: what a newer release wrote beside is not lost by an older one."""

import msgspec
import pytest

from noctule.base.errors import StorageError
from noctule.core.keyspace.state import State
from noctule.core.meta.operations import SetMemberState
from noctule.core.meta.records import Kind, read_record, read_records, record_count, record_key, write_record
from noctule.core.meta.state import MetaState
from noctule.core.roster.members import Member, MemberState
from tests.unit.core.meta.formed import ask, formed, reloaded


def extend(state: MetaState, key: bytes) -> None:
    """Add a field to a record as a newer release would."""
    record = state.get(key)
    assert isinstance(record, bytes)
    state.put(key, msgspec.msgpack.encode({**msgspec.msgpack.decode(record), "future": ["x", 1]}))


def test_a_field_that_is_not_known_survives_an_update_and_a_snapshot() -> None:
    state, key = formed(), record_key(Kind.MEMBER, 2)
    extend(state, key)
    ask(state, SetMemberState(2, MemberState.DRAINING))
    state = reloaded(state)
    ask(state, SetMemberState(2, MemberState.ACTIVE))
    record = state.get(key)
    assert isinstance(record, bytes)
    found = msgspec.msgpack.decode(record)
    assert (found["future"], found["state"]) == (["x", 1], "active")
    assert state.roster[2].state is MemberState.ACTIVE


def test_counters_carry_what_they_do_not_know_through_every_operation() -> None:
    state, key = formed(), record_key(Kind.CLUSTER)
    extend(state, key)
    ask(state, SetMemberState(2, MemberState.DRAINING))
    record = state.get(key)
    assert isinstance(record, bytes)
    assert msgspec.msgpack.decode(record)["future"] == ["x", 1]


def test_equal_objects_make_equal_bytes_whatever_the_order_of_their_labels() -> None:
    one, other = State(), State()
    write_record(one, Kind.MEMBER, 1, Member(1, "a:1", labels={"zone": "1", "rack": "2"}))
    write_record(other, Kind.MEMBER, 1, Member(1, "a:1", labels={"rack": "2", "zone": "1"}))
    assert one.slots == other.slots


def test_kinds_are_told_apart() -> None:
    state = State()
    write_record(state, Kind.MEMBER, 1, Member(1, "a:1"))
    write_record(state, Kind.MEMBER, 11, Member(11, "b:1"))
    assert sorted(member.id for member in read_records(state, Kind.MEMBER, Member)) == [1, 11]
    assert not list(read_records(state, Kind.MERGE, Member))
    assert read_record(state, Kind.MEMBER, 2, Member) is None
    assert record_count(state) == 2


@pytest.mark.parametrize("value", [b"\xc1", msgspec.msgpack.encode({"id": "one"}), {b"a": b"b"}])
def test_a_record_that_cannot_be_read_is_damage(value: bytes | dict[bytes, bytes]) -> None:
    state = MetaState()
    state.put(record_key(Kind.MEMBER, 1), value)
    with pytest.raises(StorageError):
        reloaded(state)
