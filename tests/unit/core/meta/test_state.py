"""The doors of the *meta* state: what commands may reach, what is told of changes, what a replica does with it."""

import random

import pytest

from noctule.base.ids import META_GROUP, Instant
from noctule.core.keyspace.keyspace import MUST_LOG
from noctule.core.keyspace.reply import OK, Failure
from noctule.core.meta.operations import (
    COMMAND,
    AdvanceMigration,
    BeginMigration,
    BeginSplit,
    ChangeSettings,
    OpenFeature,
    SetMemberState,
    UpdateMember,
    decode_applied,
    encode_operation,
)
from noctule.core.meta.records import Kind, record_key
from noctule.core.meta.state import NO_FLUSH, RESERVED, MetaState
from noctule.core.migration.stages import Stage
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.log import RaftLog
from noctule.core.raft.membership import Membership
from noctule.core.raft.node import RaftNode
from noctule.core.replica.replica import Replica, SnapshotPolicy
from noctule.core.roster.members import MemberState
from tests.unit.core.meta.formed import FORM, NEWER, NOW_MS, ask, formed, refusal, reloaded

MEMBER = record_key(Kind.MEMBER, 1)


@pytest.mark.parametrize(
    "command",
    [
        [b"GET", MEMBER],
        [b"DEL", b"instance:1", MEMBER],
        [b"SET", MEMBER, b""],
        [b"MSET", b"a", b"b", MEMBER, b""],
        [b"RENAME", MEMBER, b"{noctule}"],
        [b"COPY", b"{noctule}", MEMBER],
        [b"PEXPIRE", MEMBER, b"1"],
        [b"NOCTULE.PURGE", MEMBER],
    ],
)
def test_no_command_reaches_an_object_by_its_key(command: list[bytes]) -> None:
    state = formed()
    before = state.digest()
    assert state.execute(command, NOW_MS) == RESERVED
    assert state.read(command, NOW_MS) == RESERVED
    assert state.digest() == before


def test_objects_are_not_among_the_keys() -> None:
    state = formed()
    state.execute([b"SET", b"instance:1", b"x"], NOW_MS)
    state.execute([b"SET", b"{noctule}", b"x"], NOW_MS)
    ours = [b"instance:1", b"{noctule}"]
    for ask_for in (state.execute, state.read):
        assert ask_for([b"KEYS", b"*"], NOW_MS) == ours
        assert ask_for([b"DBSIZE"], NOW_MS) == 2
        assert ask_for([b"dbsize"], NOW_MS) == 2
        found, cursor = [], b"0"
        while True:
            reply = ask_for([b"scan", cursor, b"COUNT", b"3"], NOW_MS)
            assert isinstance(reply, list)
            cursor, page = reply
            found += page
            if cursor == b"0":
                break
        assert sorted(found) == ours


@pytest.mark.parametrize("command", [[b"FLUSHALL"], [b"flushdb", b"async"]])
def test_the_objects_cannot_be_flushed(command: list[bytes]) -> None:
    state = formed()
    assert state.execute(command, NOW_MS) == NO_FLUSH
    state.check()


def test_the_registry_works_as_ever() -> None:
    state = formed()
    assert state.execute([b"SET", b"instance:1", b"x", b"PX", b"10"], NOW_MS) == OK
    assert state.read([b"GET", b"instance:1"], NOW_MS) == b"x"
    assert state.read([b"GET", b"instance:1"], NOW_MS + 10) is MUST_LOG
    assert state.execute([b"NOCTULE.PURGE", b"instance:1"], NOW_MS + 10) == OK
    assert state.read([b"GET", b"instance:1"], NOW_MS + 10) is None
    assert isinstance(state.execute([b"NOPE"], NOW_MS), Failure)


def test_an_operation_goes_through_the_log() -> None:
    assert formed().read(encode_operation(FORM), NOW_MS) is MUST_LOG


@pytest.mark.parametrize(
    "args", [[COMMAND], [COMMAND, b"\xc1"], [COMMAND, b"\x81\xa2op\xa6future"], [COMMAND, b"", b""]]
)
def test_what_cannot_be_read_is_refused_and_changes_nothing(args: list[bytes]) -> None:
    state = formed()
    before = state.digest()
    reply = state.execute(args, NOW_MS)
    assert isinstance(reply, Failure)
    assert reply.text.startswith(b"REFUSED ")
    assert state.digest() == before


def test_the_version_rises_by_one_with_each_operation_that_is_applied() -> None:
    state = formed()
    before = state.version
    reply = state.execute(encode_operation(ChangeSettings({"merge_enabled": True})), NOW_MS)
    assert state.version == decode_applied(reply)[0] == before + 1
    refusal_version = state.version
    state.take_changes()
    refusal(state, ChangeSettings({"nope": 1}))
    state.execute([b"SET", b"instance:1", b"x"], NOW_MS)
    assert state.version == refusal_version == reloaded(state).version


def test_changes_are_told_once() -> None:
    state = formed()
    assert not state.take_changes()
    ask(state, BeginMigration(1, 1, 4))
    ask(state, SetMemberState(5, MemberState.DRAINING))
    ask(state, BeginSplit(2, 5_000))
    changes = state.take_changes()
    assert (changes.partitions, changes.members, changes.migrations) == ({1, 2, 5}, {5}, {1})
    assert (changes.splits, changes.merges) == ({5}, set())
    assert (changes.settings, changes.features, changes.everything) == (False, False, False)
    assert not state.take_changes()


def test_settings_and_features_are_told_of() -> None:
    state = formed()
    ask(state, ChangeSettings({"replication_factor": 5}))
    assert state.take_changes().settings
    assert state.replication_factor == 5
    ask(state, UpdateMember(5, features=NEWER))
    state.take_changes()
    ask(state, OpenFeature("new"))
    assert state.take_changes().features
    assert state.features == {*NEWER}


def test_what_was_loaded_has_changed_in_everything() -> None:
    changes = reloaded(formed()).take_changes()
    assert changes.everything
    assert changes.settings
    assert changes.features
    assert (changes.partitions, changes.members) == ({1, 2, 3, 4}, {1, 2, 3, 4, 5})


def test_a_stage_that_leaves_the_map_alone_changes_no_partition() -> None:
    state = formed()
    ask(state, BeginMigration(1, 1, 4))
    state.take_changes()
    epoch = state.map.epoch
    ask(state, AdvanceMigration(1, Stage.PREPARE, Stage.TRANSFER))
    changes = state.take_changes()
    assert (changes.partitions, changes.migrations, state.map.epoch) == (frozenset(), {1}, epoch)


def test_a_replica_of_meta_comes_back_from_a_snapshot_as_one() -> None:
    """As any other kind of keyspace it was once restored as a plain one, and the views were gone."""
    chance = random.Random(1)
    log = RaftLog(membership=Membership(voters=(1,)))
    consensus = RaftNode(node_id=1, log=log, config=RaftConfig(), chance=chance, now=Instant(0.0))
    replica = Replica(META_GROUP, consensus, SnapshotPolicy(), chance, formed())
    before = replica.digest()
    other = Replica(META_GROUP, consensus, SnapshotPolicy(), chance, MetaState())
    other.load_state(replica._chunks(0, 1 << 16))
    assert isinstance(other.keyspace, MetaState)
    assert (other.keyspace.cluster_id, other.digest()) == ("bats", before)
