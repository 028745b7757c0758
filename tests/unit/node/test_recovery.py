"""Log and snapshots made to meet after a crash at any moment, or a refusal to take part."""

import random
from pathlib import Path

import pytest

from noctule.adapters.snapshots import SnapshotFiles
from noctule.adapters.wal import Wal
from noctule.adapters.wal_format import WalIdentity
from noctule.adapters.wal_groups import RecoveredGroup
from noctule.adapters.wal_records import Entries, Forgotten, HardState, SnapshotMark
from noctule.base.errors import ConfigError, StorageError
from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.raft import events as raft
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.membership import Membership, encode_membership
from noctule.core.raft.messages import Append, Entry, VoteReply, VoteRequest
from noctule.core.replica.batches import encode_batch, encode_entry, encode_opening
from noctule.core.replica.events import WriteSnapshot, WriteSnapshotNow
from noctule.core.replica.replica import Replica, SnapshotPolicy
from noctule.node.recovery import ReplicaSettings, meet, preferred_leader, recover_replicas

GROUP = GroupId(1)
SETTINGS = ReplicaSettings(
    node_id=2, voters=(1, 2, 3), raft=RaftConfig(), policy=SnapshotPolicy(entries=10), first_timeout_s=0.25
)
IDENTITY = WalIdentity("bats", 2)
NOW = Instant(100.0)


def entry(number: int) -> bytes:
    """The entry that sets n to this number; the first one opens the session, too."""
    opened = [encode_opening(7)] if number == 1 else []
    write = encode_batch(1, number, number, [[b"SET", b"n", b"%d" % number]])
    return encode_entry(1_000 + number, [*opened, write])


def snapshot_at(number: int) -> list[bytes]:
    """The state after the entries 1…number, in chunks."""
    replica, _ = met(None, None)
    entries = [Entry(5, entry(index)) for index in range(1, number + 1)]
    replica.handle(raft.Received(1, Append(5, 0, 0, number, entries)), NOW)
    (snapshot,) = replica.handle(WriteSnapshotNow(), NOW)
    assert isinstance(snapshot, WriteSnapshot)
    return list(snapshot.chunks)


def recovered(first: int, *terms: int, term: int = 5, vote: int = 0, mark: tuple[int, int] = (0, 0)) -> RecoveredGroup:
    """What a log holds whose entries begin at `first`."""
    entries = [(each, entry(index)) for index, each in enumerate(terms, first)]
    return RecoveredGroup(term, vote, mark[0], *mark, first, entries)


def met(
    log: RecoveredGroup | None, snapshot: tuple[int, int, list[bytes]] | None
) -> tuple[Replica, SnapshotMark | None]:
    replica, mark = meet(GROUP, log, snapshot, SETTINGS, NOW, random.Random(1), SETTINGS.voters)
    replica.check()
    return replica, mark


def value(replica: Replica) -> object:
    return replica.read_local([b"GET", b"n"], 0)


def commit(replica: Replica, index: int) -> None:
    """Let the leader of term 5 tell that the log is committed up to there."""
    term = replica.raft.log.term_at(index)
    assert term is not None
    replica.handle(raft.Received(1, Append(5, index, term, index, [])), NOW)


# Where they meet ------------------------------------------------------------------------------------------------------


def test_a_node_that_never_ran_begins_with_nothing() -> None:
    replica, mark = met(None, None)
    picture = replica.describe().raft
    assert (picture.term, picture.vote, picture.last_index, picture.applied_index) == (0, 0, 0, 0)
    assert mark is None


def test_a_log_without_a_snapshot_is_kept_and_not_applied_before_a_leader_says_so() -> None:
    """Entries at the log's end may never have been committed."""
    replica, mark = met(recovered(1, 4, 5), None)
    picture = replica.describe().raft
    assert (picture.term, picture.last_index, picture.durable_index, picture.applied_index) == (5, 2, 2, 0)
    assert (value(replica), mark) == (None, None)
    commit(replica, 2)
    assert value(replica) == b"2"


def test_a_snapshot_inside_the_log_is_applied_and_what_follows_is_applied_once() -> None:
    """The mark of the log is older than the snapshot after a crash between the two, and with entries kept behind it."""
    replica, mark = met(recovered(2, 4, 4, 5, mark=(1, 4)), (3, 4, snapshot_at(3)))
    assert mark is None
    picture = replica.describe().raft
    assert (picture.snapshot_index, picture.applied_index, picture.last_index) == (1, 3, 4)
    assert value(replica) == b"3"
    commit(replica, 4)
    assert value(replica) == b"4"
    assert replica.sessions.picture().remembered[0][2] == 5  # Four batches, none of them twice.


def test_a_snapshot_at_the_log_s_end_leaves_nothing_to_apply() -> None:
    replica, mark = met(recovered(1, 4, 5), (2, 5, snapshot_at(2)))
    assert mark is None
    assert (replica.raft.applied, value(replica)) == (2, b"2")


def test_a_received_snapshot_beyond_the_log_takes_its_place() -> None:
    """Killed after it was saved and before the log said so (paper, figure 13, step 7)."""
    replica, mark = met(recovered(1, 4, 4), (9, 5, snapshot_at(9)))
    assert mark == SnapshotMark(GROUP, 9, 5)
    picture = replica.describe().raft
    assert (picture.snapshot_index, picture.last_index, picture.applied_index) == (9, 9, 9)
    assert value(replica) == b"9"


def test_a_received_snapshot_that_contradicts_the_log_takes_its_place() -> None:
    """The log's entries from there on are of a leader that was deposed; to keep them would undo committed ones."""
    replica, mark = met(recovered(1, 3, 3, 3, 3), (2, 5, snapshot_at(2)))
    assert mark == SnapshotMark(GROUP, 2, 5)
    assert (replica.raft.log.last_index, replica.raft.log.last_term) == (2, 5)


def test_a_snapshot_of_a_term_that_the_log_has_not_heard_of_raises_the_term() -> None:
    """Snapshot and term came in one turn and only the snapshot reached the disk: no entry is of a later term."""
    replica, mark = met(recovered(1, 3, term=3, vote=1), (9, 5, snapshot_at(9)))
    assert mark == SnapshotMark(GROUP, 9, 5)
    assert (replica.raft.term, replica.raft.vote) == (5, 0)


def test_the_vote_survives_a_snapshot_that_takes_the_log_s_place() -> None:
    """A voter that forgets its vote votes twice in one term."""
    replica, _ = met(recovered(1, 4, term=5, vote=3), (9, 5, snapshot_at(9)))
    effects = replica.handle(raft.Received(1, VoteRequest(5, 20, 5, False)), NOW)
    assert effects == [raft.Send(1, VoteReply(5, False, False))]


def test_a_log_whose_snapshot_is_missing_is_refused() -> None:
    """Started all the same, the node would vote without the entries it has promised to keep."""
    log = recovered(10, 5, mark=(9, 5))
    for snapshot, covered in ((None, 0), ((8, 5, snapshot_at(8)), 8)):
        with pytest.raises(StorageError) as caught:
            met(log, snapshot)
        assert "group 1" in str(caught.value)
        assert f"after entry 9, and the newest snapshot covers only {covered}" in str(caught.value)


def test_a_damaged_snapshot_is_refused() -> None:
    with pytest.raises(StorageError, match="snapshot"):
        met(None, (3, 4, snapshot_at(3)[:-1]))


# On a real disk -------------------------------------------------------------------------------------------------------


def recover(folder: Path, *groups: GroupId) -> tuple[Wal, SnapshotFiles, dict[GroupId, Replica]]:
    return recover_replicas(
        folder,
        IDENTITY,
        folder / "wal",
        groups or (META_GROUP, GROUP),
        SETTINGS,
        segment_bytes_max=64 << 10,
        now=NOW,
        chance=random.Random(1),
    )


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    wal, snapshots, _ = recover(tmp_path)
    wal.write([HardState(GROUP, 5, 3, 0), Entries(GROUP, 1, [(4, entry(1)), (5, entry(2)), (5, entry(3))])])
    snapshots.write(GROUP, 2, 5, snapshot_at(2))
    wal.close()
    wal, _, replicas = recover(tmp_path)
    wal.close()
    picture = replicas[GROUP].describe().raft
    assert (picture.term, picture.vote, picture.applied_index, picture.last_index) == (5, 3, 2, 3)
    assert value(replicas[GROUP]) == b"2"
    assert replicas[META_GROUP].describe().raft.last_index == 0


def test_a_crash_between_a_saved_snapshot_and_its_mark_is_made_good_durably(tmp_path: Path) -> None:
    """The mark must be on disk before the node takes part: entries after it would follow a gap in the log."""
    wal, snapshots, _ = recover(tmp_path)
    wal.write([HardState(GROUP, 5, 1, 0), Entries(GROUP, 1, [(4, entry(1))])])
    snapshots.write(GROUP, 9, 5, snapshot_at(9))
    wal.close()
    for _ in range(2):
        wal, _, replicas = recover(tmp_path)
        log = replicas[GROUP].raft.log
        assert (log.snapshot_index, log.last_index) == (9, 9)
        wal.close()
    wal, _, _ = recover(tmp_path)
    wal.write([Entries(GROUP, 10, [(5, entry(10))])])  # Refused by the log if the mark were not in it.
    wal.close()
    wal, _, replicas = recover(tmp_path)
    wal.close()
    assert replicas[GROUP].raft.log.last_index == 10


def test_the_term_of_a_snapshot_is_durable_with_its_mark(tmp_path: Path) -> None:
    """After a second crash the log would else end in a later term than the replica is in."""
    wal, snapshots, _ = recover(tmp_path)
    wal.write([HardState(GROUP, 4, 1, 0), Entries(GROUP, 1, [(4, entry(1))])])
    snapshots.write(GROUP, 9, 5, snapshot_at(9))
    wal.close()
    for _ in range(2):
        wal, _, replicas = recover(tmp_path)
        wal.close()
        assert (replicas[GROUP].raft.term, replicas[GROUP].raft.vote) == (5, 0)


def test_a_refused_folder_is_given_back(tmp_path: Path) -> None:
    """Once the file is restored the node must start, without another process having to end first."""
    wal, snapshots, _ = recover(tmp_path)
    wal.write([HardState(GROUP, 5, 1, 0), Entries(GROUP, 1, [(5, entry(1)), (5, entry(2))])])
    path = snapshots.write(GROUP, 2, 5, snapshot_at(2))
    wal.write([SnapshotMark(GROUP, 2, 5)])
    wal.close()
    away = path.rename(tmp_path / "away")
    with pytest.raises(StorageError, match="a snapshot file is missing"):
        recover(tmp_path)
    away.rename(path)
    wal, _, replicas = recover(tmp_path)
    with pytest.raises(ConfigError, match="in use"):
        recover(tmp_path)
    wal.close()
    assert value(replicas[GROUP]) == b"2"


# Leftovers ------------------------------------------------------------------------------------------------------------


def test_a_snapshot_of_a_group_that_the_log_has_forgotten_is_removed(tmp_path: Path) -> None:
    """The node was killed between the record and the files; the group's next replica here is another one."""
    wal, snapshots, _ = recover(tmp_path)
    wal.write([HardState(gone := 7, 5, 1, 0), Entries(gone, 1, [(5, entry(1))])])
    wal.write([HardState(GROUP, 5, 1, 0), Entries(GROUP, 1, [(5, entry(1))])])
    for group in (gone, GROUP):
        snapshots.write(group, 1, 5, snapshot_at(1))
    wal.write([Forgotten(gone)])
    wal.close()
    wal, snapshots, replicas = recover(tmp_path)
    wal.close()
    assert (snapshots.groups(), sorted(replicas)) == ({GROUP}, [META_GROUP, GROUP])


def test_the_snapshots_of_a_log_that_was_lost_stay(tmp_path: Path) -> None:
    """They hold what was committed, and spare the leaders from sending it."""
    wal, snapshots, _ = recover(tmp_path / "old")
    wal.close()
    snapshots.write(7, 1, 5, snapshot_at(1))
    (tmp_path / "new").mkdir()
    (tmp_path / "old" / "snapshots").rename(tmp_path / "new" / "snapshots")
    wal, snapshots, replicas = recover(tmp_path / "new")
    wal.close()
    assert snapshots.groups() == {7}
    assert value(replicas[GroupId(7)]) == b"1"


def test_what_the_log_has_is_there_though_it_is_none_of_the_fixed_ones(tmp_path: Path) -> None:
    """Which replicas a node has, beside that of *meta*, stands in its log and nowhere else."""
    wal, _, replicas = recover(tmp_path)
    assert sorted(replicas) == [META_GROUP, GROUP]
    wal.write([HardState(9, 5, 1, 0)])
    wal.close()
    wal, _, replicas = recover(tmp_path)
    wal.close()
    assert sorted(replicas) == [META_GROUP, GROUP, 9]
    membership = replicas[GroupId(9)].raft.log.membership
    assert membership == Membership()  # Nobody knows yet who belongs to it, and it does not campaign.


# Members --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covered", [0, 1, 2, 3])
def test_the_members_are_those_of_snapshot_and_log_and_not_the_first_ones(covered: int) -> None:
    """deventlab/d-engine#431: rebuilt from the settings at each start. The change stands at index 2."""
    after = Membership(voters=(1, 2, 4))
    log = recovered(covered + 1, *[5] * (3 - covered), mark=(covered, 5) if covered else (0, 0))
    if covered < 2:
        log.entries[1 - covered] = (5, encode_membership(after))
    first = Membership(voters=SETTINGS.voters)
    chunks = [encode_membership(first if covered < 2 else after), *snapshot_at(1)[1:]]
    replica, _ = met(log, (covered, 5, chunks) if covered else None)
    assert replica.raft.log.membership == after
    replica, _ = met(None, (9, 5, [encode_membership(after), *chunks[1:]]))
    assert replica.raft.log.membership == after


# Who goes first -------------------------------------------------------------------------------------------------------


def test_leaders_are_spread_evenly_and_the_preferred_one_waits_least() -> None:
    """Sixteen groups led by whoever was up first were one node's work and two nodes' rest."""
    leaders = [preferred_leader(GroupId(group), (1, 2, 3)) for group in range(9)]
    assert {leader: leaders.count(leader) for leader in leaders} == {1: 3, 2: 3, 3: 3}
    for group in range(9):
        replica, _ = meet(GroupId(group), None, None, SETTINGS, NOW, random.Random(group), SETTINGS.voters)
        is_first = leaders[group] == SETTINGS.node_id
        assert (replica.next_deadline() == NOW + SETTINGS.first_timeout_s) == is_first
        assert replica.next_deadline() - NOW >= (0.25 if is_first else RaftConfig().election_timeout_s_min)
