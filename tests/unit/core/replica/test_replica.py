"""Commands into entries, entries into answers: batching, refusals, reads, time."""

import dataclasses

import pytest
from msgspec.structs import replace

from noctule.base.ids import Instant
from noctule.core.keyspace import awaited as awaited_module
from noctule.core.keyspace.awaited import AWAIT, AWAITED_MS
from noctule.core.keyspace.failures import WRONG_TYPE
from noctule.core.keyspace.keyspace import ReadOutcome
from noctule.core.keyspace.reply import OK
from noctule.core.raft import events as raft
from noctule.core.raft.messages import Append, Entry, Heartbeat, HeartbeatReply
from noctule.core.replica import replica as replica_module
from noctule.core.replica.batches import EntryBody, decode_entry
from noctule.core.replica.events import Answer, Ready, Refuse
from noctule.core.replica.replica import ENTRIES_IN_FLIGHT_MAX, PURGE_INTERVAL_MS

from .colony import CONFIG, Colony, Machine, batch_of, query, write


@pytest.fixture
def alone() -> Machine:
    """The leader of a group of one, at 1,000 ms."""
    return Colony().elect(1)


def done(origin: int, number: int, *results: object, is_write: bool = True, to: int = 1) -> Answer:
    return Answer(to, origin, is_write, number, list(results))  # type: ignore[arg-type]


def run(machine: Machine, *commands: bytes, wall_ms: int | None = None) -> list[object]:
    """Write commands through the log of a leader whose colony is settled after it; their results."""
    colony = machine._colony
    if wall_ms is not None:
        colony.wall_ms[machine.node_id] = wall_ms
    machine.answers.clear()
    origin = 60 + colony_sequence(machine)
    machine.take(write(origin, 1, *commands, sender=machine.node_id))
    colony.settle()
    (answer,) = machine.taken_answers()
    assert isinstance(answer, Answer)
    return list(answer.results)


def colony_sequence(machine: Machine) -> int:
    """A number that no earlier call gave for this log."""
    return machine.replica.raft.log.last_index


def ask(machine: Machine, *commands: bytes, wall_ms: int | None = None) -> Answer | Refuse:
    """One query, and all that it takes to answer it."""
    if wall_ms is not None:
        machine._colony.wall_ms[machine.node_id] = wall_ms
    machine.answers.clear()
    machine.take(query(5, 1, *commands, sender=machine.node_id))
    machine._colony.settle()
    machine.take(raft.Tick())
    machine._colony.settle()
    (answer,) = machine.taken_answers()
    return answer


# Batching -------------------------------------------------------------------------------------------------------------


def test_batches_of_one_turn_become_one_entry(alone: Machine) -> None:
    """An entry for each command made each pay for a sync and two messages."""
    alone.take(write(7, 1, b"SET a 1", b"SET b 2"), write(8, 1, b"INCR a"), write(9, 1, b"GET b"))
    alone.turn()
    batches = [batch_of(7, 1, b"SET a 1", b"SET b 2"), batch_of(8, 1, b"INCR a"), batch_of(9, 1, b"GET b")]
    assert alone.bodies() == [EntryBody(1_000, batches)]
    assert alone.taken_answers() == []  # Not before it is durable.
    alone.sync()
    assert alone.taken_answers() == [done(7, 1, OK, OK), done(8, 1, 2), done(9, 1, b"2")]


def test_what_arrives_while_entries_are_in_flight_gathers_into_the_next_one(alone: Machine) -> None:
    """Without the bound a slow disk got an ever longer queue of ever smaller entries."""
    for number in range(1, ENTRIES_IN_FLIGHT_MAX + 1):
        alone.take(write(7, number, b"INCR a"))
        alone.turn()
    for number in range(ENTRIES_IN_FLIGHT_MAX + 1, ENTRIES_IN_FLIGHT_MAX + 4):
        alone.take(write(7, number, b"INCR a"))
        alone.turn()
    assert len(alone.bodies()) == ENTRIES_IN_FLIGHT_MAX
    alone.sync()
    assert len(alone.bodies()) == ENTRIES_IN_FLIGHT_MAX + 1
    assert [batch.sequence for batch in alone.bodies()[-1].batches] == list(
        range(ENTRIES_IN_FLIGHT_MAX + 1, ENTRIES_IN_FLIGHT_MAX + 4)
    )
    alone.sync()
    assert alone.taken_answers() == [done(7, number, number) for number in range(1, ENTRIES_IN_FLIGHT_MAX + 4)]


def test_an_entry_is_cut_at_its_target_size(alone: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathered without a bound, one entry held up all others behind it, on the disk and on the wire."""
    first, second, third = (write(7, number, b"SET a " + b"x" * 300) for number in (1, 2, 3))
    monkeypatch.setattr(replica_module, "ENTRY_BYTES_TARGET", len(first.batch) + len(second.batch))
    alone.take(first, second, third)
    for _ in range(3):
        alone.turn()
        alone.sync()
    assert [[batch.sequence for batch in body.batches] for body in alone.bodies()] == [[1, 2], [3]]


def test_one_batch_over_the_target_goes_alone(alone: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "ENTRY_BYTES_TARGET", 10)
    alone.take(write(7, 1, b"SET a " + b"x" * 300))
    alone.turn()
    alone.sync()
    assert alone.taken_answers() == [done(7, 1, OK)]


def test_too_much_waiting_is_refused_and_nothing_of_it_happens(alone: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "WAITING_BYTES_MAX", 10)
    alone.take(write(7, 1, b"INCR a"), write(8, 1, b"INCR a"))
    assert alone.taken_answers() == [Refuse(1, 8, True, 1)]
    alone.turn()
    alone.sync()
    assert ask(alone, b"GET a") == done(5, 1, b"1", is_write=False)


# Refusals -------------------------------------------------------------------------------------------------------------


def test_a_replica_that_does_not_lead_refuses_at_once() -> None:
    colony = Colony(3)
    replica = colony.machines[2]
    replica.take(write(7, 4, b"INCR a", sender=3), query(7, 9, b"GET a", sender=3))
    assert replica.answers == [Refuse(3, 7, True, 4), Refuse(3, 7, False, 9)]


def test_a_follower_reads_what_was_acknowledged_before_without_the_log() -> None:
    """Thesis 6.4: it asks the leader for a read index, and answers from its own state."""
    colony = Colony(3)
    leader = colony.elect(1)
    run(leader, b"SET a 1")
    follower = colony.machines[2]
    entries = follower.replica.raft.log.last_index
    follower.take(query(8, 9, b"GET a", sender=2))
    colony.settle()
    assert follower.taken_answers() == [Answer(2, 8, False, 9, [b"1"])]
    assert follower.replica.raft.log.last_index == entries


def test_a_round_is_by_lease_if_every_query_of_it_may_be() -> None:
    colony = Colony(3, config=dataclasses.replace(CONFIG, lease_s=0.2))
    leader = colony.elect(1)
    colony.heartbeat(1)
    by_lease, confirmed = replace(query(7, 1, b"GET a"), lease=True), query(7, 2, b"GET a")
    leader.take(by_lease)
    leader.turn()
    assert leader.taken_answers() == [Answer(1, 7, False, 1, [None])]
    leader.take(confirmed, replace(by_lease, number=3))
    leader.turn()
    assert leader.taken_answers() == []
    colony.settle()
    assert [answer.number for answer in leader.taken_answers()] == [2, 3]


def test_lost_leadership_refuses_everyone_who_waits() -> None:
    """Whoever was left waiting by an old leader learned it only by a timeout of seconds."""
    colony = Colony(3)
    leader = colony.elect(1)
    leader.take(write(7, 1, b"SET a 1"), query(7, 1, b"GET a"))
    leader.turn()  # The batch is proposed and the read round begun.
    leader.take(write(8, 1, b"SET b 1"), query(8, 1, b"GET b"))
    leader.turn()  # These wait behind them.
    leader.take(write(9, 1, b"SET c 1"), query(9, 1, b"GET c"))  # These are of the turn in which it happens.
    assert leader.taken_answers() == []
    leader.take(raft.Received(2, Heartbeat(99, 0, 0)))
    refused = leader.taken_answers()
    expected = [Refuse(1, origin, is_write, 1) for origin in (7, 8, 9) for is_write in (True, False)]
    assert sorted(refused, key=repr) == sorted(expected, key=repr)
    leader.turn()
    leader.sync()
    assert leader.taken_answers() == []


def test_what_was_refused_and_yet_committed_is_applied_once_on_a_retry() -> None:
    """A router that retried after a failover saw its INCR counted twice."""
    colony = Colony(3)
    first = colony.elect(1)
    first.take(write(7, 1, b"INCR a"))
    first.turn()
    first.sync()
    colony.settle(lambda sender, to, _: (sender, to) == (1, 2))  # Node 2 has it; node 1 never hears so.
    second = colony.elect(2, among=(2, 3))
    second.take(write(7, 1, b"INCR a", sender=1))
    colony.settle_between(2, 3)
    assert second.taken_answers() == [done(7, 1, 1)]
    second.take(query(7, 1, b"GET a"))
    colony.settle_between(2, 3)
    assert second.taken_answers() == [done(7, 1, b"1", is_write=False)]


def test_while_leadership_is_handed_over_batches_are_refused() -> None:
    """Taken then, they would have to be sent to the successor in vain."""
    colony = Colony(3)
    leader = colony.elect(1)
    leader.take(raft.TransferLeadership(2), write(7, 1, b"INCR a"))
    leader.turn()
    assert leader.taken_answers() == [Refuse(1, 7, True, 1)]


# Reads ----------------------------------------------------------------------------------------------------------------


def test_a_read_sees_the_writes_acknowledged_before_it_and_the_turn_s_clock(alone: Machine) -> None:
    run(alone, b"SET a 1 PX 500", wall_ms=1_000)
    assert ask(alone, b"GET a", b"PTTL a", wall_ms=1_200) == done(5, 1, b"1", 300, is_write=False)


def test_queries_of_one_turn_share_one_round(alone: Machine) -> None:
    colony = Colony(3)
    leader = colony.elect(1)
    colony.mail.clear()
    leader.take(query(7, 1, b"GET a"), query(8, 1, b"GET b"))
    leader.turn()
    rounds = [message.round for _, _, _, message in colony.mail if isinstance(message, Heartbeat)]
    assert len(rounds) == 2  # One for each follower.
    assert len(set(rounds)) == 1
    colony.settle()
    assert leader.taken_answers() == [done(7, 1, None, is_write=False), done(8, 1, None, is_write=False)]


def test_a_leader_cut_off_from_the_others_answers_no_read() -> None:
    """A deposed leader that trusts itself answers with the past."""
    colony = Colony(3)
    leader = colony.elect(1)
    leader.take(query(7, 1, b"GET a"))
    colony.settle_between(1)
    assert leader.taken_answers() == []


def test_a_read_of_an_expired_key_goes_through_the_log_and_removes_it_everywhere() -> None:
    """A key that one reader saw expired came back under a new leader whose clock was behind."""
    colony = Colony(3)
    leader = colony.elect(1)
    run(leader, b"SET a 1 PX 100", b"SET b 2")  # It also purged just now: the next time is later than the read.
    colony.wall_ms[1] = 1_150
    leader.take(query(5, 1, b"GET a", b"GET b"))
    colony.settle()
    assert leader.taken_answers() == [done(5, 1, None, b"2", is_write=False)]
    body = leader.bodies()[-1]
    assert body.stamp_ms == 1_150
    assert [(batch.origin, batch.commands) for batch in body.batches] == [(-1, [[b"GET", b"a"], [b"GET", b"b"]])]
    colony.heartbeat(1)
    assert [machine.replica.keyspace.key_count for machine in colony.machines.values()] == [1, 1, 1]


def test_a_confirmed_read_that_meets_an_expired_key_after_leadership_is_lost_is_refused() -> None:
    """It was put among what waits for a proposal that a follower never makes, and nobody told the router."""
    colony = Colony(3)
    leader = colony.elect(1)
    run(leader, b"SET a 1 PX 100")
    colony.wall_ms[1] = 1_150
    leader.take(query(5, 1, b"GET a"))
    leader.turn()
    round_number = max(message.round for _, _, _, message in colony.mail if isinstance(message, Heartbeat))
    term = leader.replica.raft.term
    leader.take(raft.Received(2, HeartbeatReply(term, round_number)))
    leader.take(raft.Received(3, Append(term + 1, 1, term, 1, [])))
    leader.turn()
    assert leader.taken_answers() == [Refuse(1, 5, False, 1)]


# Time -----------------------------------------------------------------------------------------------------------------


def test_stamps_never_fall_when_the_clock_jumps_back(alone: Machine) -> None:
    """A key's time to live grew when the leader's clock was set back."""
    colony = alone._colony
    for number, wall_ms in enumerate((5_000, 1_000, 5_001), start=1):
        colony.wall_ms[1] = wall_ms
        alone.take(write(7, number, b"INCR a"))
        alone.turn()
        alone.sync()
    assert [body.stamp_ms for body in alone.bodies()] == [5_000, 5_000, 5_001]


def test_a_leader_with_a_slower_clock_goes_on_where_the_last_one_was() -> None:
    colony = Colony(3)
    run(colony.elect(1), b"SET a 1 PX 500", wall_ms=9_000)
    colony.heartbeat(1)
    second = colony.elect(2)
    assert run(second, b"PTTL a", wall_ms=100) == [500]
    assert second.bodies()[-1].stamp_ms == 9_000


@pytest.mark.interpreted
def test_a_stamp_does_not_fall_behind_one_that_is_proposed_and_not_applied(
    alone: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "ENTRIES_IN_FLIGHT_MAX", 2)
    alone._colony.wall_ms[1] = 5_000
    alone.take(write(7, 1, b"INCR a"))
    alone.turn()
    alone._colony.wall_ms[1] = 4_000
    alone.take(write(7, 2, b"INCR a"))
    alone.turn()
    assert [body.stamp_ms for body in alone.bodies()] == [5_000, 5_000]


def test_the_stamp_decides_what_has_expired_and_no_follower_s_clock() -> None:
    """databendlabs/databend#7325, openziti/ziti#4088: replicas that looked at their own clocks held different data."""
    colony = Colony(3)
    colony.wall_ms = {1: 1_000, 2: 999_999, 3: 1}
    leader = colony.elect(1)
    run(leader, b"SET a 1 PX 500")
    assert run(leader, b"GET a", wall_ms=1_499) == [b"1"]
    colony.heartbeat(1)
    digests = {machine.replica.digest() for machine in colony.machines.values()}
    assert len(digests) == 1
    assert run(leader, b"GET a", wall_ms=1_500) == [None]
    colony.heartbeat(1)
    after = {machine.replica.digest() for machine in colony.machines.values()}
    assert len(after) == 1
    assert after != digests


def test_a_local_read_leaves_it_to_the_leader_whether_a_key_has_expired() -> None:
    colony = Colony(3)
    leader = colony.elect(1)
    run(leader, b"SET a 1 PX 500")
    colony.heartbeat(1)
    follower = colony.machines[2].replica
    assert follower.read_local([b"GET", b"a"], 1_499) == b"1"
    assert follower.read_local([b"GET", b"a"], 1_500) is ReadOutcome.MUST_LOG
    assert follower.read_local([b"GET", b"a"], 0) == b"1"  # A clock behind the newest stamp counts as the stamp.
    assert follower.read_local([b"PTTL", b"a"], 0) == 500


@pytest.mark.interpreted
def test_expired_keys_are_purged_in_pieces(alone: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand keys with one deadline made one entry that stopped everyone."""
    monkeypatch.setattr(replica_module, "PURGE_KEYS_MAX", 2)
    run(alone, *(b"SET k%d v PX 100" % number for number in range(5)))
    left = []
    for step in range(4):
        alone._colony.wall_ms[1] = 2_000 + step * PURGE_INTERVAL_MS
        alone.take(raft.Tick())
        alone._colony.settle()
        left.append(alone.replica.keyspace.key_count)
    assert left == [3, 1, 0, 0]
    purges = [body for body in alone.bodies() if body.batches[0].origin < 0]
    assert [body.batches[0].commands for body in purges] == [
        [[b"NOCTULE.PURGE", b"k0", b"k1"]],
        [[b"NOCTULE.PURGE", b"k2", b"k3"]],
        [[b"NOCTULE.PURGE", b"k4"]],
    ]
    assert alone.taken_answers() == []  # Nobody asked for it.


@pytest.mark.interpreted
def test_purges_are_paced_by_the_wall_clock(alone: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "PURGE_KEYS_MAX", 1)
    run(alone, b"SET a 1 PX 100", b"SET b 1 PX 100")
    for wall_ms, left in ((2_000, 1), (2_000 + PURGE_INTERVAL_MS - 1, 1), (2_000 + PURGE_INTERVAL_MS, 0)):
        alone._colony.wall_ms[1] = wall_ms
        alone.take(raft.Tick())
        alone._colony.settle()
        assert alone.replica.keyspace.key_count == left


# Replicas -------------------------------------------------------------------------------------------------------------


def test_replicas_that_applied_the_same_entries_have_the_same_digest() -> None:
    """etcd-io/etcd#14571: what applying gave depended on something that was not in the log, and replicas diverged."""
    colony = Colony(3)
    leader = colony.elect(1)
    empty = leader.replica.digest()
    for number in range(1, 30):
        leader.take(write(number % 3 + 1, (number - 1) // 3 + 1, b"INCR n%d" % (number % 4), b"HSET h f%d x" % number))
        leader.take(write(50 + number, 2, b"SET never 1", below=1))  # Out of order: changes nothing, anywhere.
        colony.settle()
    colony.heartbeat(1)
    digests = {machine.replica.digest() for machine in colony.machines.values()}
    assert len(digests) == 1
    assert digests != {empty}
    assert leader.replica.read_local([b"EXISTS", b"never"], 1_000) == 0


def test_the_digest_tells_sessions_apart() -> None:
    """Equal data with different sessions would answer a retry differently."""
    one, other = Colony().elect(1), Colony().elect(1)
    run(one, b"SET a 1")
    for number in (1, 2):
        other.take(write(7, number, b"SET a 1"))
        other._colony.settle()
    assert one.replica.keyspace.digest() == other.replica.keyspace.digest()
    assert one.replica.digest() != other.replica.digest()


def test_the_no_op_of_a_term_is_no_batch(alone: Machine) -> None:
    log = alone.replica.raft.log
    assert log.between(1, log.last_index) == [Entry(1, b"")]
    assert alone.replica.describe().stamp_ms == 0
    run(alone, b"SET a 1")
    assert decode_entry(log.between(2, 2)[0].data).stamp_ms == alone.replica.describe().stamp_ms == 1_000


def test_a_leader_is_as_old_as_its_last_word_from_a_majority_and_remembers_it() -> None:
    """It said 0 until it stepped down, and from then on that its age is unknown, though it had led till then."""
    colony = Colony(3)
    leader = colony.elect(1).replica
    heard_at = colony.now
    assert leader.staleness_ms(colony.now) == 0
    for turn in range(4):
        colony.now = Instant(colony.now + 1.0)
        assert leader.staleness_ms(colony.now) == round((colony.now - heard_at) * 1_000)
        assert leader.raft.is_leader() == (turn < 2)
        colony.machines[1].take(raft.Tick())
        colony.machines[1].turn()
        colony.mail.clear()


def test_a_leader_that_lost_its_peers_knows_when_it_last_heard_them() -> None:
    """Their connections closed, and with that it forgot when it had heard them."""
    colony = Colony(3)
    leader = colony.elect(1).replica
    heard_at = colony.now
    colony.now = Instant(colony.now + 0.125)
    colony.machines[1].take(raft.Suspect(2), raft.Suspect(3))
    assert leader.staleness_ms(colony.now) == round((colony.now - heard_at) * 1_000)


def test_a_single_voter_is_never_old() -> None:
    colony = Colony(1)
    replica = colony.elect(1).replica
    colony.settle()
    assert replica.staleness_ms(Instant(colony.now + 5.0)) == 0


def test_a_leader_that_has_committed_nothing_of_its_own_may_not_know_what_was_acknowledged() -> None:
    colony = Colony(3)
    colony.elect(1)
    heard_at = colony.now
    colony.now = Instant(colony.now + 20.0)
    colony.machines[2].take(raft.Tick())
    colony.settle(lambda _sender, _to, message: "Vote" in type(message).__name__)
    heir = colony.machines[2].replica
    assert heir.raft.is_leader()
    assert heir.staleness_ms(colony.now) == round((colony.now - heard_at) * 1_000)
    for _ in range(3):
        colony.heartbeat(2)
    assert heir.staleness_ms(colony.now) == 0


# Removed --------------------------------------------------------------------------------------------------------------


def test_a_replica_that_is_removed_refuses_all_that_waits_and_disclaims_nothing() -> None:
    """What it has proposed may be with a follower, who may lead next and apply it."""
    colony = Colony(3)
    leader = colony.elect(1)
    leader.take(write(1, 1, b"SET a 1", sender=2), query(8, 1, b"GET a", sender=3))
    leader.turn()  # One entry and one round are on their way.
    leader.take(write(1, 2, b"SET a 2", sender=2), query(8, 2, b"GET a", sender=3))
    assert leader.taken_answers() == []
    refused = leader.replica.abandon()
    assert sorted((each.to, each.is_write, each.number, each.disclaimed_term) for each in refused) == [
        (2, True, 1, 0),
        (2, True, 2, 0),
        (3, False, 1, 0),
        (3, False, 2, 0),
    ]
    assert leader.replica.abandon() == []
    leader.replica.check()


# Who waits for a key --------------------------------------------------------------------------------------------------


def awaited(machine: Machine, key: bytes, node: int, kind: bytes = b"list") -> Answer | Refuse:
    return ask(machine, b" ".join([AWAIT, key, b"%d" % node, kind]))


def test_who_found_nothing_is_told_once_when_there_is_something(alone: Machine) -> None:
    assert awaited(alone, b"q", 3) == awaited(alone, b"q", 2) == done(5, 1, 0, is_write=False)
    run(alone, b"SET other x", b"RPUSH q a b", b"RPUSH q c")
    assert alone.told == [Ready(3, b"q", b"list", 3), Ready(2, b"q", b"list", 3)]
    run(alone, b"DEL q", b"RPUSH q a")
    assert len(alone.told) == 2
    assert awaited(alone, b"q", 3) == done(5, 1, 1, is_write=False)


@pytest.mark.parametrize(
    "line", [b"RENAME {q}l q", b"COPY {q}l q", b"LMOVE {q}l q LEFT LEFT", b"LPUSH q a", b"RPOPLPUSH {q}l q"]
)
def test_whatever_puts_a_list_there_tells(alone: Machine, line: bytes) -> None:
    run(alone, b"RPUSH {q}l a")
    awaited(alone, b"q", 2)
    run(alone, line)
    assert alone.told == [Ready(2, b"q", b"list", 1)]


def test_another_type_tells_nobody(alone: Machine) -> None:
    run(alone, b"SET q x")
    assert awaited(alone, b"q", 2) == done(5, 1, WRONG_TYPE, is_write=False)
    run(alone, b"SET q y", b"DEL q", b"HSET q f v", b"DEL q")
    assert alone.told == []
    run(alone, b"RPUSH q a")
    assert alone.told == [Ready(2, b"q", b"list", 1)]


def test_a_key_that_is_gone_again_is_told_of_as_empty(alone: Machine) -> None:
    awaited(alone, b"q", 2)
    run(alone, b"RPUSH q a", b"LPOP q")
    assert alone.told == [Ready(2, b"q", b"list", 0)]


def test_what_is_taken_back_tells_nobody(alone: Machine) -> None:
    awaited(alone, b"q", 2)
    keyspace = alone.replica.keyspace
    keyspace.begin_journal()
    keyspace.execute([b"RPUSH", b"q", b"a"], 1_000)
    keyspace.roll_back()
    assert keyspace.ready == []
    run(alone, b"RPUSH q a")
    assert alone.told == [Ready(2, b"q", b"list", 1)]


@pytest.mark.interpreted
def test_notes_are_bounded_and_the_oldest_go_first(alone: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaited_module, "AWAITED_MAX", 2)
    for key in (b"a", b"b", b"a", b"c"):
        awaited(alone, key, 2)
    assert list(alone.replica.keyspace.awaited) == [b"a", b"c"]


def test_notes_that_nobody_renews_end(alone: Machine) -> None:
    for number in range(5):
        ask(alone, b"%b q%d 2 list" % (AWAIT, number), wall_ms=1_000)
    ask(alone, b"%b other 2 list" % AWAIT, wall_ms=1_000 + AWAITED_MS)
    assert list(alone.replica.keyspace.awaited) == [b"other"]


def test_a_follower_that_was_asked_tells_too() -> None:
    """A router may ask one that leads no more, whose reads are as good."""
    colony = Colony(3)
    leader, follower = colony.elect(1), colony.machines[2]
    colony.settle()
    assert awaited(follower, b"q", 3) == done(5, 1, 0, is_write=False, to=2)
    run(leader, b"RPUSH q a")
    ask(follower, b"LLEN q")
    assert (leader.told, follower.told) == ([], [Ready(3, b"q", b"list", 1)])
