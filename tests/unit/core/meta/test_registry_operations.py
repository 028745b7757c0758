"""The registry in *meta*: refused before every member can do it, in every snapshot, told to whoever follows."""

import msgspec
import pytest

from noctule.base.errors import InternalError
from noctule.core.keyspace.keyspace import MUST_LOG
from noctule.core.meta.operations import COMMAND, ChangeRegistry, Form, OpenFeature, UpdateMember, encode_operation
from noctule.core.meta.records import Kind, record_key
from noctule.core.meta.state import MetaState
from noctule.core.registry.changes import (
    AcquireKey,
    CheckIndex,
    CreateSession,
    DeleteKey,
    EndSession,
    PutCheck,
    PutNode,
    PutService,
    RemoveNode,
    RenewSession,
    SetKey,
)
from noctule.core.registry.objects import NODE_CHECK, Check, CheckStatus, RegistryNode, ServiceInstance, Session
from noctule.core.roster.features import REGISTRY
from tests.unit.core.meta.formed import FORM, NEWER, NOW_MS, ask, formed, refusal, reloaded

SOME = [
    PutNode(RegistryNode("a", "10.0.0.1", meta={"rack": "1"})),
    PutCheck(Check("a", NODE_CHECK, "alive", CheckStatus.PASSING)),
    PutService(ServiceInstance("a", "1", "web", tags=("x",), tagged_addresses={"lan": ("10.0.0.1", 80)})),
    CreateSession(Session("s", "a", ttl_ms=1_000)),
    AcquireKey("k", b"\xff", "s"),
]


def test_a_list_is_one_operation_and_answers_what_each_change_answers() -> None:
    state = formed()
    assert ask(state, ChangeRegistry(SOME)) == [2, 2, 2, 2, True]
    assert state.take_changes().registry
    assert ask(state, ChangeRegistry([RenewSession("s")]), NOW_MS + 5) == [True]
    assert not state.take_changes(), "nobody follows the times at which leases end"
    assert [each.address for each in state.registry.nodes.values()] == ["10.0.0.1"]
    state.check()


def test_a_refused_list_changes_nothing_and_says_which_change_it_was() -> None:
    state = formed()
    ask(state, ChangeRegistry(SOME))
    state.take_changes()
    why = refusal(state, ChangeRegistry([RemoveNode("a"), SetKey("l", b""), CheckIndex("k", 1)]))
    assert why.startswith("change 2: key 'k' has the modify index")
    assert refusal(state, ChangeRegistry([SetKey("k", b"", cas=9)], all_done=True)).startswith("change 0: ")
    state.check()


def test_a_snapshot_holds_all_of_it_and_forgets_none() -> None:
    """The replica that loaded it goes on exactly as the others do, lock-delays and deadlines included."""
    state = formed()
    ask(state, ChangeRegistry(SOME))
    ask(state, ChangeRegistry([EndSession("s"), CreateSession(Session("t", "a", ttl_ms=1_000))]))
    ask(state, ChangeRegistry([SetKey("gone", b"")]))
    ask(state, ChangeRegistry([DeleteKey("gone")]))
    loaded = reloaded(state)
    assert loaded.take_changes().registry
    assert loaded.registry.contents() == state.registry.contents()
    assert loaded.registry.lock_delay_ms("k", NOW_MS) == 15_000
    later = NOW_MS + 60_000
    for replica in (state, loaded):
        assert ask(replica, ChangeRegistry(replica.registry.due(later)), later) == [replica.registry.index]
        assert not replica.registry.sessions
        replica.check()
    assert loaded.digest() == state.digest()


def test_nothing_is_registered_before_every_member_can() -> None:
    """A member of an earlier release would refuse what the others do, and hold something else."""
    old = tuple(name for name in NEWER if name != REGISTRY)
    members = [msgspec.structs.replace(member, features=old) for member in FORM.members]
    state = MetaState()
    ask(state, Form("bats", members, FORM.replicas, 3))
    state.take_changes()
    assert "nodes [1, 2, 3, 4, 5] do not have it" in refusal(state, ChangeRegistry(SOME))
    for member in members:
        ask(state, UpdateMember(member.id, features=NEWER))
    ask(state, OpenFeature(REGISTRY))
    assert ask(state, ChangeRegistry(SOME))
    assert "not formed" in refusal(MetaState(), ChangeRegistry(SOME))


def test_fields_of_a_newer_release_stay_in_a_record() -> None:
    state = formed()
    ask(state, ChangeRegistry(SOME))
    key = record_key(Kind.INSTANCE, "a\0001")
    record = state.get(key)
    assert isinstance(record, bytes)
    state.put(key, msgspec.msgpack.encode({**msgspec.msgpack.decode(record), "newer": 1}))
    loaded = reloaded(state)
    ask(loaded, ChangeRegistry([PutService(ServiceInstance("a", "1", "web", port=81))]))
    record = loaded.get(key)
    assert isinstance(record, bytes)
    assert msgspec.msgpack.decode(record)["newer"] == 1
    assert msgspec.msgpack.decode(record)["port"] == 81


def test_a_registry_that_is_not_what_its_keys_say_is_found() -> None:
    state = formed()
    ask(state, ChangeRegistry(SOME))
    state.remove(record_key(Kind.KEY, "k"))
    with pytest.raises(InternalError, match="the registry is what its keys say"):
        state.check()


def test_the_version_is_read_without_a_log_entry_and_nothing_else_of_it() -> None:
    state = formed()
    version = state.version
    assert state.read([COMMAND], NOW_MS) == version
    assert state.read(encode_operation(ChangeRegistry(SOME)), NOW_MS) is MUST_LOG
