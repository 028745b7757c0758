"""Whole clusters under faults, and proof that the simulator can fail: planted bugs are found."""

import contextlib
import functools
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from noctule.adapters.wal_format import FrameHeader
from noctule.base.errors import NoctuleError
from noctule.core.keyspace.chance import Chance
from noctule.core.keyspace.state import State
from noctule.core.keyspace.stream_value import StreamValue
from noctule.core.raft.events import Suspect
from noctule.core.raft.leadership import Leadership
from noctule.core.raft.node import RaftNode
from noctule.core.raft.reads import Read
from noctule.core.replica.batches import OPENING, Batch
from noctule.core.replica.carry_out import Carrier
from noctule.core.replica.client_sessions import ClientSessions
from noctule.verify.sim.coverage import RARE
from noctule.verify.sim.faulty_files import FaultyFiles
from noctule.verify.sim.invariants import LivenessViolation, SafetyViolation
from noctule.verify.sim.machine import Machine
from noctule.verify.sim.run import run_seed, world_of
from noctule.verify.sim.world import Outcome, World
from tests.simulation.planted import known_first

SEEDS = range(1, 61)


@functools.cache
def outcome_of(seed: int) -> Outcome:
    return run_seed(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_holds_under_faults(seed: int) -> None:
    """`make sim SEED=n` replays one; `make sim SEEDS=10000` runs more."""
    assert outcome_of(seed).operations > 50


def test_everything_rare_happens() -> None:
    """A simulator that never crashes anything proves nothing."""
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        counts.update(outcome_of(seed).counts)
    assert [what for what in RARE if not counts[what]] == []


@pytest.mark.timeout(1_200)
def test_the_same_seeds_give_the_same_traces_in_another_process_with_another_hash_seed(
    pytestconfig: pytest.Config,
) -> None:
    """Short worlds: what depends on hashing, on the address of an object or on a real clock shows at once."""
    script = """
import sys
from noctule.verify.sim.run import world_of
for seed in range(1, int(sys.argv[1]) + 1):
    print(seed, world_of(seed).run(fault_s=2.0).digest)
"""
    seeds = str(pytestconfig.getoption("--digest-seeds"))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, seeds],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("0", "4711")
    ]
    first, second = (process.communicate()[0].splitlines() for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert len(first) == int(seeds)
    assert first == second
    assert len({line.split()[1] for line in first}) == len(first), "different seeds make different worlds"


def test_whoever_is_to_leave_counts_for_nothing_when_a_disk_may_be_lost() -> None:
    """Else a group may be left with two voters, one of them with an empty disk, and can decide nothing any more."""
    world = World(1, node_count=4, replication_factor=3)
    while not world.is_whole():
        world.time.run_until(world.time.now() + 0.1)
    assert world.bears_loss_of([3])
    world.operators.drain(4)
    world.operators.drain(1)
    assert world.operators.parting == {4}, "three stay"
    world.operators.parting.add(2)
    assert not world.bears_loss_of([3])


def _vote_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica votes for whoever asks: two votes in one term (camunda/camunda#5356)."""
    original = RaftNode._step_vote_request

    def step(self: RaftNode, sender: int, message: Any) -> None:
        self.vote = 0 if not message.pre else self.vote
        self.leader = 0
        original(self, sender, message)

    monkeypatch.setattr("noctule.core.raft.node._STEPS", {**_steps(), type_of("VoteRequest"): step})


def _acknowledge_before_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promises leave before the disk has what they promise (etcd-io/etcd#14370)."""
    monkeypatch.setattr(RaftNode, "send_when_durable", RaftNode.send)


def _commit_by_counting_older_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads are served and followers told without a commit in the own term (paper, figure 8)."""

    def read(self: Leadership, context: int, asker: int, *, lease: bool = False) -> None:
        self._answer_read(Read(context, self._node.applied, asker))

    monkeypatch.setattr(Leadership, "read", read)


def _apply_retries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retried batch is applied as if it were new (etcd-io/etcd#18424)."""
    original = ClientSessions.apply

    def apply(self: ClientSessions, batch: Batch, stamp_ms: int, execute: Any) -> Any:
        if batch.sequence == OPENING:
            return original(self, batch, stamp_ms, execute)
        return [execute(command) for command in batch.commands]

    monkeypatch.setattr(ClientSessions, "apply", apply)


def _keep_the_stale_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conflicting entry is taken for a match (mofa-org/mofa#1151)."""
    original = RaftNode._accept

    def accept(self: RaftNode, previous: int, entries: list[Any]) -> None:
        have = self.log.last_index - previous
        original(self, max(previous, self.log.last_index), entries[max(have, 0) :])

    monkeypatch.setattr(RaftNode, "_accept", accept)


def _forget_the_vote_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Term and vote are not kept (bakwc/PySyncObj#202)."""
    original = Machine.persist

    def persist(self: Machine, group: Any, persist: Any) -> None:
        from noctule.core.raft.events import Persist

        original(
            self,
            group,
            Persist(
                None,
                persist.first_index,
                persist.entries,
                persist.after,
                persist.index,
                persist.term,
                persist.mark,
                persist.replace_log,
            ),
        )

    monkeypatch.setattr(Machine, "persist", persist)


def _skip_the_directory_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is synced and its name is not (etcd-io/etcd#6368)."""
    monkeypatch.setattr(FaultyFiles, "sync_directory", lambda _self, _directory: None)


def _rename_before_the_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file has its name before it has its bytes."""
    monkeypatch.setattr(FaultyFiles, "sync", lambda _self, _descriptor: None)


def _acknowledge_after_a_failed_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of fdatasync is not looked at."""
    original = FaultyFiles.sync_data

    def sync(self: FaultyFiles, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            original(self, descriptor)

    monkeypatch.setattr(FaultyFiles, "sync_data", sync)


def _try_a_failed_sync_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second fdatasync succeeds, for the system thinks that the pages are clean (PostgreSQL's "fsyncgate")."""
    original = FaultyFiles.sync_data

    def sync(self: FaultyFiles, descriptor: int) -> None:
        try:
            original(self, descriptor)
        except OSError:
            self.failing.clear()
            original(self, descriptor)

    monkeypatch.setattr(FaultyFiles, "sync_data", sync)


def _trust_what_a_failed_sync_left_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart the last frame is not written again, though the disk may never have got it."""
    monkeypatch.setattr("noctule.adapters.wal_recovery._settle", lambda *_arguments: None)


def _ignore_a_bad_crc_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame is believed whatever its checksum says."""

    def read(data: bytes, header: FrameHeader) -> bytes:
        return data[header.payload_offset : header.end][: header.payload_bytes]

    monkeypatch.setattr("noctule.adapters.wal_recovery.read_frame_payload", read)


def _cut_the_log_at_any_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever cannot be read is taken for a torn tail, durable frames and votes included (FAST '18, PAR)."""
    monkeypatch.setattr("noctule.adapters.wal_recovery._check_torn", lambda *_arguments, **_options: None)


def _sleep_through_suspicion(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet follower that is told of its leader's end sleeps on."""
    original = RaftNode._handle_suspect

    def suspect(self: RaftNode, event: Any) -> None:
        if not self.is_quiet() or self.is_leader():
            original(self, event)

    monkeypatch.setattr("noctule.core.raft.node._HANDLERS", {**_handlers(), Suspect: suspect})
    monkeypatch.setattr(Carrier, "check", lambda _self: None)  # It must show in what clients see.


def _take_entries_to_some_for_a_word_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats are put off by entries though a follower gets none, since it has not answered the last one."""
    original = Leadership._send_entries

    def send(self: Leadership, peer: int, progress: Any) -> bool:
        original(self, peer, progress)
        return True

    monkeypatch.setattr(Leadership, "_send_entries", send)


def _leave_what_was_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a script did is not taken back before its effects are logged."""

    def roll_back(self: State) -> None:
        self._journal = None

    monkeypatch.setattr(State, "roll_back", roll_back)


def _leave_what_was_done_to_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a script did inside lists, sets and streams is not taken back before its effects are logged."""
    original = State.change

    def change(self: State, key: bytes, held: Any) -> Any:
        own = original(self, key, held)
        own.undo = None
        return own

    monkeypatch.setattr(State, "change", change)


def _draw_by_own_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replica draws which members of a set go."""
    chance = random.Random(1)
    monkeypatch.setattr(Chance, "below", lambda _self, limit: chance.randrange(limit))


def _leave_groups_out_of_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who restores a snapshot has the streams, and not their groups."""
    original = StreamValue.absorb

    def absorb(self: StreamValue, part: bytes) -> None:
        original(self, part)
        self.groups.clear()

    monkeypatch.setattr(StreamValue, "absorb", absorb)


def _handlers() -> dict[type, Any]:
    from noctule.core.raft import node

    return node._HANDLERS


def _steps() -> dict[type, Any]:
    from noctule.core.raft import node

    return node._STEPS


def type_of(name: str) -> type:
    from noctule.core.raft import messages

    return getattr(messages, name)


FOUND_BY_ANY = (
    _acknowledge_before_sync,
    _apply_retries_again,
    _commit_by_counting_older_terms,
    _draw_by_own_chance,
    _forget_the_vote_on_disk,
    _ignore_a_bad_crc_in_the_log,
    _keep_the_stale_tail,
    _leave_groups_out_of_snapshots,
    _leave_what_was_done_to_items,
    _leave_what_was_evaluated,
    _rename_before_the_sync,
    _sleep_through_suspicion,
    _skip_the_directory_sync,
    _take_entries_to_some_for_a_word_to_all,
    _vote_without_memory,
)
FAILING_DISKS = ("fail_disk", "crash_for_a_while", "cut_power_of_all")
FOUND_BY_SOME = (
    (_acknowledge_after_a_failed_sync, FAILING_DISKS),
    (_trust_what_a_failed_sync_left_in_memory, FAILING_DISKS),
    (_try_a_failed_sync_again, FAILING_DISKS),
    (_cut_the_log_at_any_damage, ("flip_bits", "crash_in_a_write", "cut_for_a_while", "transfer")),
)
"""What needs several faults that meet is looked for in worlds that have these faults only."""
FOUND_BY_SEED = {
    _acknowledge_after_a_failed_sync: 14,
    _acknowledge_before_sync: 26,
    _cut_the_log_at_any_damage: 67,
    _draw_by_own_chance: 8,
    _ignore_a_bad_crc_in_the_log: 13,
    _keep_the_stale_tail: 10,
    _leave_groups_out_of_snapshots: 7,
    _leave_what_was_done_to_items: 7,
    _sleep_through_suspicion: 58,
    _take_entries_to_some_for_a_word_to_all: 9,
    _trust_what_a_failed_sync_left_in_memory: 35,
    _try_a_failed_sync_again: 8,
}
"""The seeds that found what few do, to begin with. Any change of the rules may need others: then all are tried."""
SEEDS_TO_FIND_MAX = 200


@pytest.mark.parametrize(("plant", "fault_names"), [*((plant, ()) for plant in FOUND_BY_ANY), *FOUND_BY_SOME])
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], fault_names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    for seed in known_first(FOUND_BY_SEED.get(plant, 1), SEEDS_TO_FIND_MAX):
        try:
            world_of(seed).run(fault_names=fault_names)
        except (SafetyViolation, LivenessViolation, NoctuleError):
            print(plant.__name__, seed)  # With -rP, for `FOUND_BY_SEED`.
            return
    pytest.fail(f"{SEEDS_TO_FIND_MAX} seeds did not find it")


@pytest.mark.parametrize("fault_names", sorted({names for _, names in FOUND_BY_SOME}))
def test_nothing_is_found_by_some_faults_where_no_bug_is_planted(fault_names: tuple[str, ...]) -> None:
    for seed in range(1, 11):
        world_of(seed).run(fault_names=fault_names)
