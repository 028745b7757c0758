"""Reads that nodes confirm for all groups at once: by a majority, after the read came, or not at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noctule.base.ids import GroupId, Instant
from noctule.core.keyspace.reply import MOVED, Members, Pairs, Reply
from noctule.core.raft import events as raft
from noctule.core.raft.config import RaftConfig
from noctule.core.raft.membership import Change, ChangeKind
from noctule.core.raft.messages import AppendReply, Message
from noctule.core.replica import shared_reads
from noctule.core.replica.durability import Durability
from noctule.core.replica.events import Answer
from noctule.core.replica.shared_reads import Following
from noctule.core.wire.messages import ForwardReads, ReadRound, ReadRoundReply, ReadsAnswered

from .colony import GROUP, OTHER_GROUP, Colony, Machine, write

ASKER, OTHER_ASKER = 8, 9
WALL_MS = 5_000
A, B = (GROUP, b"GET a"), (OTHER_GROUP, b"GET b")


def reads(number: int, *wanted: tuple[GroupId, bytes]) -> ForwardReads:
    return ForwardReads(number, [group for group, _ in wanted], [line.split() for _, line in wanted])


def begin(leader: Machine, number: int, *wanted: tuple[GroupId, bytes]) -> dict[int, ReadRound]:
    """Ask in one turn; the rounds, since nothing can be answered yet."""
    leader.reads.ask(ASKER, reads(number, *wanted))
    rounds, answers = leader.reads.begin(WALL_MS)
    assert answers == []
    return dict(rounds)


def begin_settled(leader: Machine, number: int, *wanted: tuple[GroupId, bytes]) -> ReadsAnswered:
    """Ask what is answered without asking anybody."""
    leader.reads.ask(ASKER, reads(number, *wanted))
    _, ((to, answer),) = leader.reads.begin(WALL_MS)
    assert to == ASKER
    return answer


def reply(colony: Colony, follower: int, round_: ReadRound, leader: int = 1) -> ReadRoundReply:
    machine = colony.machines[follower]
    return machine.following.reply(leader, round_, machine.replicas)


def confirm(colony: Colony, follower: int, round_: ReadRound) -> list[ReadsAnswered]:
    """The follower's word reaches node 1."""
    answers = colony.machines[1].reads.replied(follower, reply(colony, follower, round_), WALL_MS)
    assert all(to == ASKER for to, _ in answers)
    return [answer for _, answer in answers]


def led(count: int = 3) -> Colony:
    """Node 1 leads both groups, which hold a and b."""
    colony = Colony(count, groups=(GROUP, OTHER_GROUP))
    leader = colony.elect(1)
    leader.take(write(1, 1, b"SET a 1"))
    leader.take(write(1, 1, b"SET b 2"), group=OTHER_GROUP)
    colony.settle()
    return colony


def led_and_confirmed() -> Colony:
    """Both followers have confirmed both groups before."""
    colony = led()
    rounds = begin(colony.machines[1], 1, A, B)
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(1, [b"1", b"2"], [])]
    assert confirm(colony, 3, rounds[3]) == []
    return colony


def make_restless(colony: Colony, node: int) -> None:
    """The node misses the leader of `GROUP` and asks the others whether it could win; nobody hears it."""
    colony.now = Instant(colony.now + 20.0)
    colony.machines[node].take(raft.Tick())
    colony.settle_between()


def left(number: int, count: int = 1) -> ReadsAnswered:
    return ReadsAnswered(number, [None] * count, [*range(count)])


# Confirmed ------------------------------------------------------------------------------------------------------------


def test_one_of_two_followers_confirms_all_groups_at_once() -> None:
    colony = led()
    leader = colony.machines[1]
    rounds = begin(leader, 7, A, B, (GROUP, b"EXISTS a"), (GROUP, b"GET none"))
    term, other_term = (leader.replicas[group].raft.term for group in (GROUP, OTHER_GROUP))
    assert [(each.asked, node) for node, each in rounds.items()] == [
        ([(GROUP, term, 0), (OTHER_GROUP, other_term, 0)], node) for node in (2, 3)
    ]
    assert confirm(colony, 3, rounds[3]) == [ReadsAnswered(7, [b"1", b"2", 1, None], [])]
    assert confirm(colony, 2, rounds[2]) == []
    assert leader.requests == {GROUP: 3, OTHER_GROUP: 1}


def test_while_nothing_changes_one_word_confirms_every_group() -> None:
    colony = led_and_confirmed()
    rounds = begin(colony.machines[1], 2, A, B)
    assert [each.asked for each in rounds.values()] == [[], []]
    assert reply(colony, 2, rounds[2]).followed == []
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(2, [b"1", b"2"], [])]


def ask_as(colony: Colony, sender: int, number: int, *wanted: tuple[GroupId, bytes]) -> ForwardReads:
    """A request with its sender's word, as of now."""
    asked = reads(number, *wanted)
    return ForwardReads(number, asked.groups, asked.commands, colony.machines[sender].following.unrest(1))


def test_a_voter_that_asks_confirms_by_asking() -> None:
    colony = led_and_confirmed()
    leader = colony.machines[1]
    leader.reads.ask(2, ask_as(colony, 2, 2, A, B))
    assert leader.reads.begin(WALL_MS) == ([], [(2, ReadsAnswered(2, [b"1", b"2"], []))])


def test_who_asks_and_was_never_confirmed_is_asked() -> None:
    colony = led()
    leader = colony.machines[1]
    leader.reads.ask(2, ask_as(colony, 2, 1, A))
    rounds, answers = leader.reads.begin(WALL_MS)
    assert (answers, [len(each.asked) for _, each in rounds]) == ([], [1, 1])


def test_who_asks_and_has_ceased_to_follow_confirms_nothing() -> None:
    colony = led_and_confirmed()
    leader = colony.machines[1]
    make_restless(colony, 2)
    leader.reads.ask(2, ask_as(colony, 2, 2, B))
    rounds, answers = leader.reads.begin(WALL_MS)
    assert (answers, [node for node, _ in rounds]) == ([], [2, 3])


def test_who_has_no_voice_confirms_nothing_by_asking() -> None:
    colony = led_and_confirmed()
    leader = colony.machines[1]
    asked = ask_as(colony, 2, 2, A)
    leader.reads.ask(ASKER, asked)
    rounds, answers = leader.reads.begin(WALL_MS)
    assert (answers, [node for node, _ in rounds]) == ([], [2, 3])


def test_of_five_voters_the_one_that_asks_counts_once() -> None:
    colony = led(5)
    leader = colony.machines[1]
    for follower, round_ in begin(leader, 1, A).items():
        confirm(colony, follower, round_)
    leader.reads.ask(2, ask_as(colony, 2, 2, A))
    rounds, answers = leader.reads.begin(WALL_MS)
    assert answers == []
    assert leader.reads.replied(2, reply(colony, 2, dict(rounds)[2]), WALL_MS) == []
    assert leader.reads.replied(4, reply(colony, 4, dict(rounds)[4]), WALL_MS) == [(2, ReadsAnswered(2, [b"1"], []))]


def test_a_turn_without_reads_begins_nothing() -> None:
    assert led().machines[1].reads.begin(WALL_MS) == ([], [])


def test_a_word_given_before_the_read_came_confirms_nothing() -> None:
    """By that time another could have been elected."""
    colony = led()
    leader = colony.machines[1]
    early = begin(leader, 1, A)
    rounds = begin(leader, 2, A)
    assert confirm(colony, 2, early[2]) == []
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(2, [b"1"], [])]


def test_a_later_word_confirms_what_was_asked_before() -> None:
    colony = led_and_confirmed()
    leader = colony.machines[1]
    begin(leader, 2, A)
    leader.reads.ask(OTHER_ASKER, reads(3, B))
    rounds, _ = leader.reads.begin(WALL_MS)
    answers = leader.reads.replied(2, reply(colony, 2, dict(rounds)[2]), WALL_MS)
    assert answers == [(ASKER, ReadsAnswered(2, [b"1"], [])), (OTHER_ASKER, ReadsAnswered(3, [b"2"], []))]


def test_five_voters_need_two_words_of_different_nodes() -> None:
    colony = led(5)
    leader = colony.machines[1]
    rounds = begin(leader, 1, A)
    word = reply(colony, 2, rounds[2])
    for _ in range(3):
        assert leader.reads.replied(2, word, WALL_MS) == []
    assert confirm(colony, 5, rounds[5]) == [ReadsAnswered(1, [b"1"], [])]


def test_the_only_voter_answers_at_once_and_needs_nobody() -> None:
    colony = led(1)
    assert begin_settled(colony.machines[1], 1, A, B) == ReadsAnswered(1, [b"1", b"2"], [])


def test_a_newer_request_of_a_node_takes_the_place_of_its_older_one() -> None:
    colony = led_and_confirmed()
    leader = colony.machines[1]
    leader.reads.ask(ASKER, reads(2, A))
    rounds = begin(leader, 3, B)
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(3, [b"2"], [])]
    assert confirm(colony, 3, rounds[3]) == []


def test_once_closed_nothing_is_answered_whatever_comes() -> None:
    colony = led()
    leader = colony.machines[1]
    rounds = begin(leader, 1, A)
    leader.reads.close()
    assert confirm(colony, 2, rounds[2]) == []
    leader.reads.ask(ASKER, reads(2, A))
    assert leader.reads.begin(WALL_MS) == ([], [])


# Unrest ---------------------------------------------------------------------------------------------------------------


def test_who_ceased_to_follow_in_one_group_is_asked_anew_about_all_of_them() -> None:
    colony = led_and_confirmed()
    make_restless(colony, 2)
    rounds = begin(colony.machines[1], 2, B)
    assert rounds[2].asked == []
    assert confirm(colony, 2, rounds[2]) == []
    assert confirm(colony, 3, rounds[3]) == [ReadsAnswered(2, [b"2"], [])]
    rounds = begin(colony.machines[1], 3, B)
    assert [len(rounds[node].asked) for node in (2, 3)] == [1, 0]
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(3, [b"2"], [])]


def test_who_ceased_to_follow_and_follows_again_was_away() -> None:
    """In between it could have voted for another, had that been in a later term."""
    colony = led_and_confirmed()
    make_restless(colony, 2)
    colony.heartbeat(1)
    assert colony.machines[2].replica.raft.leader == 1
    rounds = begin(colony.machines[1], 2, A)
    assert confirm(colony, 2, rounds[2]) == []
    rounds = begin(colony.machines[1], 3, A)
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(3, [b"1"], [])]


def test_a_leader_that_was_deposed_without_knowing_it_answers_nothing() -> None:
    colony = led_and_confirmed()
    colony.elect(2, among=(2, 3))
    former = colony.machines[1]
    assert former.replica.raft.is_leader()
    colony.machines[2].take(write(1, 2, b"SET a new"))
    colony.settle_between(2, 3)
    rounds = begin(former, 2, A)
    assert confirm(colony, 2, rounds[2]) == []
    assert confirm(colony, 3, rounds[3]) == [left(2)]


def test_words_given_before_an_election_confirm_what_was_asked_before_it() -> None:
    colony = led()
    rounds = begin(colony.machines[1], 1, A)
    word = reply(colony, 2, rounds[2])
    colony.elect(2, among=(2, 3))
    assert colony.machines[1].reads.replied(2, word, WALL_MS) == [(ASKER, ReadsAnswered(1, [b"1"], []))]


def test_who_follows_the_leader_in_an_earlier_term_does_not_confirm_the_later_one() -> None:
    """It may have voted for another in between, or may yet."""
    colony = led()
    colony.machines[1].replica.raft.step_down()
    leader = colony.elect(1, among=(1, 3))
    follower = colony.machines[2].replica.raft
    assert (follower.leader, follower.term) == (1, leader.replica.raft.term - 1)
    rounds = begin(leader, 1, A)
    assert reply(colony, 2, rounds[2]).followed == []
    assert confirm(colony, 2, rounds[2]) == []
    assert confirm(colony, 3, rounds[3]) == [ReadsAnswered(1, [b"1"], [])]


def test_a_request_waits_until_each_of_its_groups_is_confirmed_or_cannot_be() -> None:
    colony = led()
    make_restless(colony, 2)
    rounds = begin(colony.machines[1], 1, A, B)
    assert confirm(colony, 2, rounds[2]) == []
    assert confirm(colony, 3, rounds[3]) == [ReadsAnswered(1, [b"1", b"2"], [])]
    rounds = begin(colony.machines[1], 2, A, B)
    assert confirm(colony, 2, rounds[2]) == []
    assert colony.machines[1].reads.peer_lost(3, WALL_MS) == [(ASKER, ReadsAnswered(2, [None, b"2"], [0]))]


def test_who_leads_again_in_a_later_term_is_confirmed_in_that_term_only() -> None:
    colony = led_and_confirmed()
    rounds = begin(colony.machines[1], 2, A)
    word = reply(colony, 2, rounds[2])
    colony.elect(2)
    colony.elect(1)
    assert colony.machines[1].reads.replied(2, word, WALL_MS) == [(ASKER, left(2))]
    rounds = begin(colony.machines[1], 3, A)
    assert [len(each.asked) for each in rounds.values()] == [1, 1]


def test_a_replica_that_was_removed_follows_nobody() -> None:
    colony = led_and_confirmed()
    follower = colony.machines[2]
    del follower.replicas[GROUP]
    follower.following.change(GROUP, 0, 0)
    rounds = begin(colony.machines[1], 2, A)
    assert confirm(colony, 2, rounds[2]) == []
    rounds = begin(colony.machines[1], 3, A)
    assert reply(colony, 2, rounds[2]).followed == []


def test_the_unrest_of_one_leader_is_not_that_of_another() -> None:
    following = Following(100)
    following.change(GROUP, 1, 4)
    following.change(OTHER_GROUP, 2, 4)
    following.change(GROUP, 1, 4)
    assert (following.unrest(1), following.unrest(2)) == (100, 100)
    following.change(GROUP, 1, 5)
    assert (following.unrest(1), following.unrest(2)) == (101, 100)
    following.change(GROUP, 2, 6)
    following.change(GROUP, 0, 0)
    following.change(GROUP, 0, 7)
    assert (following.unrest(1), following.unrest(2)) == (102, 101)


# Late, doubled, reordered, lost ---------------------------------------------------------------------------------------


def test_a_word_that_was_overtaken_by_a_later_one_is_no_news() -> None:
    """Else what has ended since would be taken for confirmed from now on."""
    colony = led()
    leader = colony.machines[1]
    first = begin(leader, 1, A)
    overtaken = reply(colony, 2, first[2])
    second = begin(leader, 2, A)
    make_restless(colony, 2)
    assert confirm(colony, 2, second[2]) == []
    assert leader.reads.replied(2, overtaken, WALL_MS) == []
    assert begin(leader, 3, A)[2].asked != []


@pytest.mark.parametrize("distance", [-1_000_000, 1, 1_000_000])
def test_a_word_about_a_round_that_this_life_has_not_begun_is_no_news(distance: int) -> None:
    colony = led()
    leader = colony.machines[1]
    rounds = begin(leader, 1, A)
    word = reply(colony, 2, rounds[2])
    foreign = ReadRoundReply(word.round + distance, word.unrest, word.followed)
    assert leader.reads.replied(2, foreign, WALL_MS) == []
    assert leader.reads.replied(2, word, WALL_MS) == [(ASKER, ReadsAnswered(1, [b"1"], []))]


def test_a_follower_in_another_life_is_asked_anew() -> None:
    colony = led_and_confirmed()
    follower = colony.machines[2]
    follower.following = Following(77)
    rounds = begin(colony.machines[1], 2, A)
    assert confirm(colony, 2, rounds[2]) == []
    assert confirm(colony, 3, rounds[3]) == [ReadsAnswered(2, [b"1"], [])]


def test_what_was_asked_in_a_round_that_was_lost_is_not_confirmed_by_the_next_one() -> None:
    colony = led()
    leader = colony.machines[1]
    begin(leader, 1, A)
    leader.reads.ask(OTHER_ASKER, reads(2, B))
    rounds = dict(leader.reads.begin(WALL_MS)[0])
    assert leader.reads.replied(2, reply(colony, 2, rounds[2]), WALL_MS) == [
        (OTHER_ASKER, ReadsAnswered(2, [b"2"], []))
    ]
    assert leader.reads.replied(3, reply(colony, 3, rounds[3]), WALL_MS) == [(ASKER, left(1))]


def test_nobody_waits_for_a_node_that_is_lost() -> None:
    colony = led()
    leader = colony.machines[1]
    begin(leader, 1, A)
    assert leader.reads.peer_lost(2, WALL_MS) == []
    assert leader.reads.peer_lost(2, WALL_MS) == []
    assert leader.reads.peer_lost(3, WALL_MS) == [(ASKER, left(1))]


def test_who_is_not_connected_is_not_asked_and_without_a_majority_reads_are_left() -> None:
    colony = led_and_confirmed()
    leader = colony.machines[1]
    leader.lost = {3}
    rounds = begin(leader, 2, A)
    assert rounds.keys() == {2}
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(2, [b"1"], [])]
    leader.lost = {2, 3}
    assert begin_settled(leader, 3, A) == left(3)


# Left -----------------------------------------------------------------------------------------------------------------


def test_a_group_that_is_not_here_or_not_led_here_is_left_and_others_are_answered() -> None:
    colony = led()
    leader = colony.machines[1]
    leader.replicas[OTHER_GROUP].raft.step_down()
    rounds = begin(leader, 1, (GroupId(99), b"GET x"), A, B)
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(1, [None, b"1", None], [0, 2])]
    assert leader.requests == {GROUP: 1}
    assert begin_settled(leader, 2, B, (GroupId(99), b"GET x")) == left(2, 2)


def test_what_a_leader_has_not_committed_in_its_own_term_is_left() -> None:
    """Until then it may not know what an earlier leader has acknowledged."""
    colony = Colony(3)
    colony.now = Instant(20.0)
    leader = colony.machines[1]
    leader.take(raft.Tick())
    colony.settle(lambda _sender, _to, message: not isinstance(message, AppendReply))
    assert leader.replica.raft.is_leader()
    rounds = begin(leader, 1, A)
    assert reply(colony, 2, rounds[2]).followed
    assert confirm(colony, 2, rounds[2]) == [left(1)]
    colony.now = Instant(colony.now + 1.0)
    colony.heartbeat(1)
    rounds = begin(leader, 2, A)
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(2, [None], [])]


def test_what_is_committed_and_not_applied_yet_is_waited_for_elsewhere() -> None:
    """It may have been acknowledged, and this state does not hold it."""
    colony = Colony(3, config=RaftConfig(retained_entries=0, apply_entries_max=1))
    colony.now = Instant(20.0)
    leader = colony.machines[1]

    def is_no_reply(_sender: int, _to: int, message: Message) -> bool:
        return not isinstance(message, AppendReply)

    leader.take(raft.Tick())
    colony.settle(is_no_reply)
    leader.take(write(1, 1, b"SET a 1"))
    colony.settle(is_no_reply)
    leader.is_busy = True
    for _ in range(3):
        colony.now = Instant(colony.now + 1.0)
        colony.heartbeat(1)
    consensus = leader.replica.raft
    assert consensus.applied < consensus.commit
    rounds = begin(leader, 1, A)
    assert confirm(colony, 2, rounds[2]) == [left(1)]
    leader.is_busy = False
    leader.turn()
    rounds = begin(leader, 2, A)
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(2, [b"1"], [])]


def test_where_a_leader_acknowledges_early_reads_are_left() -> None:
    """They wait for what it has acknowledged, which only its own rounds know."""
    colony = Colony(3, durability=Durability.LEADER)
    leader = colony.elect(1)
    rounds = begin(leader, 1, A)
    assert confirm(colony, 2, rounds[2]) == [left(1)]


def test_a_key_whose_time_is_over_is_left_with_all_behind_it_in_its_group() -> None:
    """One that is not left must not overtake it."""
    colony = led()
    leader = colony.machines[1]
    leader.take(write(2, 1, b"SET brief 1 PX 100"))
    colony.settle()
    rounds = begin(leader, 1, A, (GROUP, b"GET brief"), B, A, (GROUP, b"GET none"))
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(1, [b"1", None, b"2", None, None], [1, 3, 4])]
    assert leader.requests == {GROUP: 1, OTHER_GROUP: 1}


def test_a_key_that_is_elsewhere_is_left() -> None:
    colony = Colony(1, slots=(0, 0))
    leader = colony.elect(1)
    colony.settle()
    assert leader.replica.read_local(A[1].split(), WALL_MS) is MOVED
    assert begin_settled(leader, 1, A) == left(1)


def test_writes_are_left() -> None:
    assert begin_settled(led(1).machines[1], 1, (GROUP, b"SET a 2")) == left(1)


def test_strings_over_the_target_of_an_answer_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reads, "ANSWER_BYTES_TARGET", 10)
    colony = led(1)
    leader = colony.machines[1]
    leader.take(write(2, 1, b"SET long 12345678"))
    colony.settle()
    long = (GROUP, b"GET long")
    assert begin_settled(leader, 1, long, long, long, B) == ReadsAnswered(1, [b"12345678"] * 2 + [None] * 2, [2, 3])


@pytest.mark.parametrize(
    ("fill", "read", "result"),
    [
        (b"RPUSH k 1234 5678", b"LRANGE k 0 -1", [b"1234", b"5678"]),
        (b"SADD k 12345678", b"SMEMBERS k", Members([b"12345678"])),
        (b"HSET k 1234 5678", b"HGETALL k", {b"1234": b"5678"}),
        (b"ZADD k 1 12345678", b"ZRANGE k 0 -1 WITHSCORES", Pairs([(b"12345678", 1.0)])),
    ],
)
def test_strings_within_lists_count_as_well(
    fill: bytes, read: bytes, result: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_reads, "ANSWER_BYTES_TARGET", 10)
    colony = led(1)
    leader = colony.machines[1]
    leader.take(write(2, 1, fill))
    colony.settle()
    long = (GROUP, read)
    assert begin_settled(leader, 1, long, long, long) == ReadsAnswered(1, [result, result, None], [2])


# Who belongs to the group ---------------------------------------------------------------------------------------------


def change(colony: Colony, kind: ChangeKind, node: int, transition: raft.Transition = raft.Transition.SIMPLE) -> None:
    colony.machines[1].take(raft.ChangeMembership((Change(kind, node),), transition))


def test_a_change_between_asking_and_confirming_leaves_the_read() -> None:
    colony = led()
    rounds = begin(colony.machines[1], 1, A, B)
    change(colony, ChangeKind.LEARNER, 3)
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(1, [None, b"2"], [0])]
    colony.settle()
    rounds = begin(colony.machines[1], 2, A, B)
    assert [group for group, _, _ in rounds[2].asked] == [GROUP]
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(2, [b"1", b"2"], [])]


def test_a_learner_has_no_word_though_it_followed_as_a_voter() -> None:
    """Its word of before the change comes after it."""
    colony = led()
    leader = colony.machines[1]
    late = reply(colony, 3, begin(leader, 1, A, B)[3])
    change(colony, ChangeKind.LEARNER, 3)
    colony.settle()
    assert leader.reads.replied(3, late, WALL_MS) == [(ASKER, ReadsAnswered(1, [None, b"2"], [0]))]
    assert begin(leader, 2, A).keys() == {2}
    rounds = begin(leader, 3, A, B)
    assert confirm(colony, 3, rounds[3]) == []
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(3, [b"1", b"2"], [])]


def test_a_joint_membership_is_left() -> None:
    colony = led()
    change(colony, ChangeKind.LEARNER, 3, raft.Transition.JOINT_EXPLICIT)
    colony.settle()
    assert colony.machines[1].replica.raft.log.membership.is_joint()
    assert begin_settled(colony.machines[1], 1, A) == left(1)


def test_a_leader_that_is_no_voter_any_more_leaves_its_reads() -> None:
    colony = led()
    change(colony, ChangeKind.REMOVED, 1)
    assert colony.machines[1].replica.raft.is_leader()
    assert begin_settled(colony.machines[1], 1, A) == left(1)


def test_who_lost_its_disk_has_no_word_until_the_group_knows_it_by_its_new_directory() -> None:
    colony = led()
    colony.machines[2].replica.raft.directory = 7
    rounds = begin(colony.machines[1], 1, A)
    assert reply(colony, 2, rounds[2]).followed == []
    assert confirm(colony, 2, rounds[2]) == []
    for _ in range(3):
        colony.heartbeat(1)
    consensus = colony.machines[1].replica.raft
    assert (consensus.log.membership.voters, consensus.log.membership.directory_of(2)) == ((1, 2, 3), 7)
    rounds = begin(colony.machines[1], 2, A)
    assert rounds[2].asked == [(GROUP, consensus.term, 7)]
    assert confirm(colony, 2, rounds[2]) == [ReadsAnswered(2, [b"1"], [])]


# Who watches ----------------------------------------------------------------------------------------------------------


def test_who_watches_a_replica_is_told_of_what_was_answered_and_only_of_that() -> None:
    colony = led(1)
    leader = colony.machines[1]
    told: list[tuple[list[list[bytes]], Instant]] = []
    leader.replica.on_batch = lambda commands, now: told.append((commands, now))
    colony.now = Instant(colony.now + 10_000.0)
    begin_settled(leader, 1, A, B, (GROUP, b"SET a 2"), (GROUP, b"GET none"))
    assert told == [([[b"GET", b"a"]], colony.now)]
    assert leader.replica.raft.now < colony.now  # It sleeps: nobody had to wake it.


# The law --------------------------------------------------------------------------------------------------------------

GROUPS = (GROUP, OTHER_GROUP)
SOME_GROUPS = st.sampled_from([(GROUP,), (OTHER_GROUP,), GROUPS])
PLACES = st.integers(0, 20)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("depose"), st.sampled_from(GROUPS), st.booleans()),
        st.tuples(st.just("write"), st.sampled_from(GROUPS), st.just(0)),
        st.tuples(st.just("ask"), st.booleans(), SOME_GROUPS),
        st.tuples(st.just("read"), st.booleans(), SOME_GROUPS),
        st.tuples(st.just("send"), st.booleans(), SOME_GROUPS, st.booleans()),
        st.tuples(st.just("arrive"), PLACES),
        st.tuples(st.just("reply"), PLACES),
        st.tuples(st.just("hear"), PLACES),
    ),
    min_size=8,
    max_size=30,
)


class History:
    """Elections, writes and reads of three nodes; rounds and replies arrive late, again, in any order or never."""

    def __init__(self) -> None:
        self.colony = Colony(3, groups=GROUPS)
        self.colony.elect(1)
        self.leaders = dict.fromkeys(GROUPS, 1)
        """The newest of each group; others may not know that they lead no more."""
        self.written = 0
        self.known = dict.fromkeys(GROUPS, 0)
        """The newest value of each group that anybody was told of."""
        self.asked: list[tuple[tuple[GroupId, ...], dict[GroupId, int]]] = []
        """By the number of a request: its groups, and what was known when it came."""
        self.sent: list[tuple[int, int, ForwardReads]] = []
        self.rounds: list[tuple[int, int, ReadRound]] = []
        self.replies: list[tuple[int, int, ReadRoundReply]] = []

    def depose(self, group: GroupId, is_first: bool) -> None:
        """Another node is elected and writes, while the leader hears nothing."""
        former = self.leaders[group]
        others = sorted({1, 2, 3} - {former})
        leader = self.leaders[group] = others[not is_first]
        self.colony.now = Instant(self.colony.now + 20.0)
        self.colony.machines[leader].take(raft.Tick(), group=group)
        self.colony.settle_between(*others)
        self.write(group, former)

    def write(self, group: GroupId, cut_off: int) -> None:
        self.written += 1
        leader = self.colony.machines[self.leaders[group]]
        leader.take(write(self.written, 1, b"SET key %d" % self.written), group=group)
        self.colony.settle_between(*{1, 2, 3} - {cut_off})
        if any(isinstance(answer, Answer) for answer in leader.taken_answers()):
            self.known[group] = self.written

    def ask(self, is_former: bool, groups: tuple[GroupId, ...]) -> list[tuple[int, int, ReadRound]]:
        """Somebody who has no voice asks for reads, without a delay."""
        return self.take(self.leading(is_former, groups), ASKER, self.request(groups))

    def leading(self, is_former: bool, groups: tuple[GroupId, ...]) -> int:
        """The newest leader of the first group, or one that has heard of no other."""
        machines = self.colony.machines
        leading = [node for node in machines if machines[node].replicas[groups[0]].raft.is_leader()]
        is_other = len(leading) > 1 and (leading[0] == self.leaders[groups[0]]) is is_former
        return leading[1] if is_other else leading[0]

    def request(self, groups: tuple[GroupId, ...], unrest: int = 0) -> ForwardReads:
        self.asked.append((groups, dict(self.known)))
        asked = reads(len(self.asked) - 1, *[(group, b"GET key") for group in groups])
        return ForwardReads(asked.number, asked.groups, asked.commands, unrest)

    def send(self, is_former: bool, groups: tuple[GroupId, ...], is_first: bool) -> None:
        """A voter asks, with its word; when that arrives is open."""
        node = self.leading(is_former, groups)
        sender = sorted({1, 2, 3} - {node})[not is_first]
        unrest = self.colony.machines[sender].following.unrest(node)
        self.sent.append((node, sender, self.request(groups, unrest)))

    def arrive(self, place: int) -> None:
        if self.sent:
            self.take(*self.sent[-1 - place % len(self.sent)])

    def take(self, node: int, sender: int, message: ForwardReads) -> list[tuple[int, int, ReadRound]]:
        leader = self.colony.machines[node].reads
        leader.ask(sender, message)
        rounds, answers = leader.begin(WALL_MS)
        begun = [(node, follower, round_) for follower, round_ in rounds]
        self.rounds += begun
        self.answered(answers)
        return begun

    def read(self, is_former: bool, groups: tuple[GroupId, ...]) -> None:
        """Ask, and nothing comes in between."""
        for leader, follower, round_ in self.ask(is_former, groups):
            word = reply(self.colony, follower, round_, leader)
            self.answered(self.colony.machines[leader].reads.replied(follower, word, WALL_MS))

    def reply(self, place: int) -> None:
        if self.rounds:
            leader, follower, round_ = self.rounds[-1 - place % len(self.rounds)]
            self.replies.append((leader, follower, reply(self.colony, follower, round_, leader)))

    def hear(self, place: int) -> None:
        if self.replies:
            leader, follower, word = self.replies[-1 - place % len(self.replies)]
            self.answered(self.colony.machines[leader].reads.replied(follower, word, WALL_MS))

    def answered(self, answers: list[tuple[int, ReadsAnswered]]) -> None:
        for _, answer in answers:
            groups, known = self.asked[answer.number]
            for place, (group, value) in enumerate(zip(groups, answer.results, strict=True)):
                if place not in answer.left:
                    assert int(value or 0) >= known[group], "what was known before the read came is in it"
                    self.known[group] = max(self.known[group], int(value or 0))


@settings(max_examples=80)
@given(STEPS)
def test_a_read_holds_whatever_was_known_before_it_came(steps: list[tuple[str, ...]]) -> None:
    history = History()
    for name, *arguments in steps:
        getattr(history, name)(*arguments)
