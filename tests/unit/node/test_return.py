"""A node that has lost what it had promised comes back as another directory, whatever step of that is its last."""

import dataclasses
import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from noctule.adapters.snapshots import SnapshotFiles
from noctule.adapters.wal import Wal
from noctule.adapters.wal_format import WalIdentity, parse_segment_name
from noctule.adapters.wal_records import Entries, HardState, SnapshotMark
from noctule.base.errors import ConfigError, DamagedLogError, StorageError
from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.raft import events as raft
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.membership import Membership, encode_membership
from noctule.core.raft.messages import Append, AppendReply, Entry, VoteReply, VoteRequest
from noctule.core.replica.batches import encode_batch, encode_entry, encode_opening
from noctule.core.replica.events import WriteSnapshot, WriteSnapshotNow
from noctule.core.replica.replica import Replica, SnapshotPolicy
from noctule.node.config import ClusterConfig, NodeConfig
from noctule.node.data_folder import DataFolder, claim_data_folder
from noctule.node.recovery import KEPT_ASIDE, ReplicaSettings, meet, recover_or_return
from noctule.verify.sim.memory_disk import MemoryDisk

DATA, WAL, SNAPSHOTS = Path("/data"), Path("/log"), Path("/data/snapshots")
GROUP = GroupId(1)
GROUPS = (META_GROUP, GROUP)
VOTERS = (1, 2, 3)
CONFIG = NodeConfig(
    cluster=ClusterConfig(name="bats", voters={node: f"h:{node}" for node in VOTERS}, partition_count=1),
    node_id=2,
    data_dir=DATA,
    wal_dir=WAL,
)
SETTINGS = ReplicaSettings(
    node_id=2, voters=VOTERS, raft=RaftConfig(), policy=SnapshotPolicy(entries=10), first_timeout_s=0.25
)
NOW = Instant(100.0)
SEGMENT_BYTES = 1 << 10

Replicas = dict[GroupId, Replica]


class Start:
    """One start of node 2 on a disk; closed at once, as a kill would."""

    def __init__(
        self,
        disk: MemoryDisk,
        *,
        seed: int = 1,
        config: NodeConfig = CONFIG,
        settings: ReplicaSettings = SETTINGS,
        members_known: int = 0,
    ) -> None:
        chance = random.Random(seed)
        self.damages: list[tuple[DamagedLogError, int]] = []
        self.folder: DataFolder = claim_data_folder(config, chance, disk)
        self.wal: Wal
        self.wal, self.snapshots, self.replicas = recover_or_return(
            self.folder,
            WalIdentity("bats", 2),
            GROUPS,
            settings,
            segment_bytes_max=SEGMENT_BYTES,
            now=NOW,
            chance=chance,
            on_damage=lambda damage, directory: self.damages.append((damage, directory)),
            members_known=members_known,
        )
        self.wal.close()

    @property
    def directory(self) -> int:
        return self.folder.directory


def entry(number: int) -> bytes:
    opened = [encode_opening(7)] if number == 1 else []
    write = encode_batch(1, number, number, [[b"SET", b"n", b"%d" % number]])
    return encode_entry(1_000 + number, [*opened, write])


def snapshot_at(number: int) -> list[bytes]:
    """The state after the entries 1…number, in chunks."""
    replica, _ = meet(GROUP, None, None, SETTINGS, NOW, random.Random(1), SETTINGS.voters)
    entries = [Entry(5, entry(index)) for index in range(1, number + 1)]
    replica.handle(raft.Received(1, Append(5, 0, 0, number, entries)), NOW)
    (snapshot,) = replica.handle(WriteSnapshotNow(), NOW)
    assert isinstance(snapshot, WriteSnapshot)
    return list(snapshot.chunks)


def promised() -> dict[Path, bytes]:
    """The files of a node that voted for node 3 in term 5 and acknowledged five entries, two of them in a snapshot."""
    disk = MemoryDisk()
    start = Start(disk)
    wal, _ = Wal.open(WAL, WalIdentity("bats", 2), segment_bytes_max=SEGMENT_BYTES, files=disk)
    for number in range(1, 6):
        wal.write([HardState(GROUP, 5, 3, 0), Entries(GROUP, number, [(5, entry(number))])])
        wal.write([Entries(META_GROUP, number, [(5, entry(number) + bytes(100))])])
    start.snapshots.write(GROUP, 2, 5, snapshot_at(2))
    wal.write([SnapshotMark(GROUP, 2, 5)])
    wal.close()
    return disk.files()


def segments(files: dict[Path, bytes]) -> list[Path]:
    return sorted(path for path in files if path.parent == WAL and parse_segment_name(path.name) is not None)


def snapshot_file(files: dict[Path, bytes]) -> Path:
    [path] = [path for path in files if path.suffix == ".snapshot"]
    return path


def flipped(files: dict[Path, bytes], path: Path, place: int) -> dict[Path, bytes]:
    data = bytearray(files[path])
    data[place] ^= 1
    return {**files, path: bytes(data)}


def with_a_flipped_log(files: dict[Path, bytes]) -> dict[Path, bytes]:
    return flipped(files, segments(files)[0], 200)


def with_a_flipped_newest_segment(files: dict[Path, bytes]) -> dict[Path, bytes]:
    """What is left without it is a sound log, of some time ago."""
    return flipped(files, segments(files)[-1], 200)


def without_its_log(files: dict[Path, bytes]) -> dict[Path, bytes]:
    return {path: data for path, data in files.items() if path.parent != WAL}


def with_a_flipped_snapshot(files: dict[Path, bytes]) -> dict[Path, bytes]:
    return flipped(files, snapshot_file(files), 60)


def without_its_snapshot(files: dict[Path, bytes]) -> dict[Path, bytes]:
    return {path: data for path, data in files.items() if path.suffix != ".snapshot"}


def with_its_log_of_an_earlier_directory(files: dict[Path, bytes]) -> dict[Path, bytes]:
    """The log's disk was not mounted at one start, and is at the next."""
    away = MemoryDisk.of(without_its_log(files))
    assert Start(away, seed=2).directory
    back = {path: data for path, data in files.items() if path.parent == WAL}
    return {**without_its_log(away.files()), **back}


DAMAGES = [
    with_a_flipped_log,
    with_a_flipped_newest_segment,
    without_its_log,
    with_a_flipped_snapshot,
    without_its_snapshot,
    with_its_log_of_an_earlier_directory,
]
Damage = Callable[[dict[Path, bytes]], dict[Path, bytes]]


class NewestFirst(MemoryDisk):
    """Names come in no order; in this one a log without its newest segments is a sound log of some time ago."""

    def names(self, directory: Path) -> list[str]:
        return sorted(super().names(directory), reverse=True)


def vote_asked(replica: Replica, term: int) -> VoteReply:
    """The answer to a candidate whose log is the longest, long after a leader was heard."""
    effects = replica.handle(raft.Received(1, VoteRequest(term, 100, term, False)), Instant(NOW + 10.0 * term))
    sent = [effect for each in effects for effect in (each.after if isinstance(each, raft.Persist) else [each])]
    [reply] = [each.message for each in sent if isinstance(each, raft.Send)]
    assert isinstance(reply, VoteReply)
    return reply


def test_a_sound_node_starts_as_what_it_was() -> None:
    assert len(segments(promised())) > 1
    start = Start(MemoryDisk.of(promised()))
    assert (start.directory, start.damages) == (0, [])
    assert start.replicas[GROUP].raft.log.last_index == 5
    assert vote_asked(start.replicas[GROUP], 6).granted


@pytest.mark.parametrize("damage", DAMAGES)
def test_with_damage_it_has_no_vote_and_speaks_as_another_directory(damage: Damage) -> None:
    """The mutation that this is for: to begin with an empty log as the directory that has promised something."""
    disk = MemoryDisk.of(damage(promised()))
    before = claim_data_folder(CONFIG, random.Random(9), disk).directory
    start = Start(disk, seed=3)
    assert start.directory not in (0, before)
    [(told, directory)] = start.damages
    assert directory == start.directory
    assert told.why
    replica = start.replicas[GROUP]
    assert vote_asked(replica, 6) == VoteReply(6, False, False, start.directory)
    last = replica.raft.log.last_index
    entries = [Entry(6, entry(number)) for number in range(last + 1, 8)]
    effects = replica.handle(raft.Received(1, Append(6, last, replica.raft.log.last_term, 0, entries)), NOW)
    [persist] = [effect for effect in effects if isinstance(effect, raft.Persist)]
    [reply] = [send.message for send in persist.after if isinstance(send.message, AppendReply)]
    assert (reply.accepted, reply.index, reply.directory) == (True, 7, start.directory)


def test_it_votes_again_once_the_group_has_committed_its_directory() -> None:
    start = Start(MemoryDisk.of(without_its_log(promised())))
    replica = start.replicas[META_GROUP]
    taken_back = Membership(voters=VOTERS, directories=((2, start.directory),))
    entries = [Entry(5, entry(1)), Entry(5, encode_membership(taken_back))]
    replica.handle(raft.Received(1, Append(5, 0, 0, 1, entries)), NOW)
    assert not vote_asked(replica, 6).granted
    replica.handle(raft.Received(1, Append(6, 2, 5, 2, [])), Instant(NOW + 60.0))
    assert vote_asked(replica, 7).granted


# Crashes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_power_cut_at_any_step_of_the_return_is_safe(damage: Damage) -> None:
    """At no step is there a sound log, or room for one, under a directory that has promised what is lost."""
    disk = NewestFirst.of(damage(promised()))
    forbidden = {0, claim_data_folder(CONFIG, random.Random(9), disk).directory}
    kept = {data for path, data in disk.files().items() if path in segments(disk.files())}
    first = Start(disk, seed=3)
    images = 0
    for _, image in disk.crashes():
        images += 1
        owner = claim_data_folder(CONFIG, random.Random(9), MemoryDisk.of(image.files())).owner
        again = Start(image, seed=4)
        assert again.directory not in forbidden
        assert kept <= set(image.files().values()), "what is damaged is there for analysis"
        assert Start(image, seed=5).directory == again.directory, "it has returned, and need not again"
        if owner.directory == first.directory and owner.log_folder:
            assert (again.directory, again.damages) == (first.directory, []), "by then it may have promised something"
    assert images > 20


def test_a_power_cut_at_any_step_of_the_first_start_leaves_a_first_start() -> None:
    """A node that has promised nothing must not ask to be taken back, by others that never ran."""
    disk = MemoryDisk()
    Start(disk)
    for _, image in disk.crashes():
        assert Start(image, seed=4).directory == 0


def test_a_kill_while_it_catches_up_costs_nothing_that_it_has_fetched() -> None:
    disk = MemoryDisk.of(without_its_log(promised()))
    start = Start(disk)
    wal, _ = Wal.open(WAL, WalIdentity("bats", 2), segment_bytes_max=SEGMENT_BYTES, files=disk)
    wal.write([HardState(META_GROUP, 6, 0, 0), Entries(META_GROUP, 1, [(5, entry(1))])])
    wal.close()
    again = Start(disk, seed=4)
    assert (again.directory, again.damages) == (start.directory, [])
    assert again.replicas[META_GROUP].raft.log.last_index == 1


# What stays, and what is set aside ------------------------------------------------------------------------------------


def test_an_intact_snapshot_stays_and_spares_the_leader_from_sending_it() -> None:
    start = Start(MemoryDisk.of(with_a_flipped_log(promised())))
    replica = start.replicas[GROUP]
    assert (replica.raft.applied, replica.read_local([b"GET", b"n"], 0)) == (2, b"2")
    assert start.replicas[META_GROUP].raft.applied == 0


def test_a_damaged_snapshot_is_set_aside_with_the_log_and_the_one_before_it_taken() -> None:
    disk = MemoryDisk.of(promised())
    older = {snapshot_file(disk.files()): disk.files()[snapshot_file(disk.files())]}
    path = SnapshotFiles(SNAPSHOTS, files=disk).write(GROUP, 4, 5, snapshot_at(4))
    files = flipped({**disk.files(), **older}, path, 60)
    disk = MemoryDisk.of(files)
    start = Start(disk)
    [(damage, _)] = start.damages
    assert damage.file == str(path)
    assert start.replicas[GROUP].raft.applied == 2
    assert disk.files()[SNAPSHOTS / f"damaged-1-{path.name}"] == files[path]
    for segment in segments(files):
        assert disk.files()[WAL / f"damaged-1-{segment.name}"] == files[segment]


def test_what_is_set_aside_is_bounded_and_the_newest() -> None:
    disk = MemoryDisk.of(promised())
    for time in range(1, 3 + KEPT_ASIDE):
        Start(disk, seed=time)
        disk = MemoryDisk.of(flipped(disk.files(), segments(disk.files())[0], 0))
    Start(disk, seed=99)
    numbers = {int(path.name.split("-")[1]) for path in disk.files() if path.name.startswith("damaged-")}
    newest = max(numbers)
    assert newest > KEPT_ASIDE
    assert numbers == set(range(newest - KEPT_ASIDE + 1, newest + 1))


# What is no reason to return ------------------------------------------------------------------------------------------


class UnreadableDisk(MemoryDisk):
    """Its reads of segments fail: the bytes may be there all the same."""

    def read(self, path: Path) -> bytes:
        if parse_segment_name(path.name) is not None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(path)


def refusal(disk: MemoryDisk, **changes: object) -> tuple[type[Exception], str]:
    """Why a start fails; it must change nothing."""
    before = disk.files()
    with pytest.raises((StorageError, ConfigError)) as caught:
        Start(disk, seed=4, **changes)  # type: ignore[arg-type]
    assert disk.files() == before
    return type(caught.value), str(caught.value)


def test_a_disk_that_cannot_be_read_is_not_a_damaged_log() -> None:
    kind, words = refusal(UnreadableDisk.of(promised()))
    assert (kind, "Input/output error" in words) == (StorageError, True)


@pytest.mark.parametrize("damage", [with_a_flipped_log, without_its_log, with_a_flipped_snapshot])
@pytest.mark.parametrize("voters", [(2,), (1, 2)])
def test_where_the_others_are_no_majority_damage_stops_the_node(damage: Damage, voters: tuple[int, ...]) -> None:
    """Nobody could take it back, and an empty log would be the end of what the others still have."""
    kind, words = refusal(MemoryDisk.of(damage(promised())), settings=dataclasses.replace(SETTINGS, voters=voters))
    assert (kind, f"in a cluster of {len(voters)}" in words) == (StorageError, True)
    assert "restore the whole data folder" in words


def test_a_node_that_joined_heals_by_whom_it_knew() -> None:
    """Its settings name no voters, and it is as good a member as any."""
    joined, files = dataclasses.replace(SETTINGS, voters=()), with_a_flipped_log(promised())
    kind, words = refusal(MemoryDisk.of(files), settings=joined, members_known=2)
    assert (kind, "in a cluster of 2" in words) == (StorageError, True)
    start = Start(MemoryDisk.of(files), settings=joined, members_known=3)
    assert start.directory
    assert start.replicas[META_GROUP].raft.log.membership == Membership()  # It is told by the others.


def test_a_log_folder_that_is_named_wrongly_is_told_and_not_healed() -> None:
    """The wrong line in every node's settings would cost every node its vote."""
    kind, words = refusal(MemoryDisk.of(promised()), config=dataclasses.replace(CONFIG, wal_dir=Path("/elsewhere")))
    assert kind is ConfigError
    assert words.startswith("the log of /data is in /log, and /elsewhere holds none")


def test_a_log_may_move_with_its_folder_s_name() -> None:
    moved = {Path("/new") / path.name if path.parent == WAL else path: data for path, data in promised().items()}
    disk = MemoryDisk.of(moved)
    config = dataclasses.replace(CONFIG, wal_dir=Path("/new"))
    assert Start(disk, config=config).damages == []
    without = {path: data for path, data in disk.files().items() if path.parent != Path("/new")}
    assert Start(MemoryDisk.of(without), config=config).directory, "the new place is known"


def test_another_data_folder_s_log_is_left_alone() -> None:
    """Two nodes with one --wal-dir: the second must not set the first one's log aside."""
    other = dataclasses.replace(CONFIG, data_dir=Path("/other"))
    kind, words = refusal_after_claim(MemoryDisk.of(promised()), other)
    assert kind is ConfigError
    assert "holds" in words


def refusal_after_claim(disk: MemoryDisk, config: NodeConfig) -> tuple[type[Exception], str]:
    """As `refusal`, on a data folder that has been claimed with a log folder of its own."""
    Start(disk, config=dataclasses.replace(config, wal_dir=Path("/other/wal")), seed=8)
    return refusal(disk, config=config)
