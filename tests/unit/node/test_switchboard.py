"""The switchboard: what comes in reaches replica or router, and what goes out gathers for the right node."""

import logging

import pytest

from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.keyspace.keyspace import ReadOutcome
from noctule.core.keyspace.reply import OK, Failure
from noctule.core.placement.partition_map import Partition
from noctule.core.raft import events as raft
from noctule.core.raft.messages import Heartbeat
from noctule.core.replica.batches import OPENING
from noctule.core.replica.events import Answer, DigestReady, Event, Publish, Query, Ready, Refuse, Submit
from noctule.core.roster.features import FEATURES
from noctule.core.wire.messages import (
    Answered,
    Forward,
    ForwardQuery,
    ForwardReads,
    KeyReady,
    Leads,
    Published,
    ReadRound,
    ReadRoundReply,
    ReadsAnswered,
    Refused,
    Where,
)
from noctule.node.router import Router
from noctule.node.switchboard import Switchboard
from tests.unit.core.replica.colony import Colony, query, write
from tests.unit.node.maps import even_map

from .fake_dispatch import Sink

GROUP = GroupId(1)
ORIGIN = 7


class Node:
    """Node 1 of three; its replicas are real, and what would be handed to them is kept."""

    def __init__(self) -> None:
        self.taken: list[tuple[GroupId, Event]] = []
        self.elections: list[tuple[GroupId, int]] = []
        self.memberships: list[tuple[GroupId, raft.MembershipChanged | raft.MembershipRefused]] = []
        self.digests: list[tuple[GroupId, DigestReady]] = []
        self.heard: list[Published] = []
        self.said: list[Publish] = []
        self.connected = {2}
        self.turns_wanted = 0
        self.hanging: set[int] = set()
        self.colony = Colony(3, groups=(META_GROUP, GROUP))
        self.partitions = even_map(1, (1, 2, 3))
        self.switchboard = Switchboard(1, self.colony.machines[1].replicas, self, self._router, self.partitions)
        self.router = self.switchboard.router

    def _router(self, switchboard: Switchboard) -> Router:
        return Router(
            partitions=self.partitions,
            dispatch=switchboard,
            new_origin=lambda: ORIGIN,
            now=lambda: Instant(0.0),
            request_deadline_s=10.0,
        )

    def take(self, group: GroupId, event: Event) -> None:
        self.taken.append((group, event))

    def schedule_turn(self) -> None:
        self.turns_wanted += 1

    def is_trusted(self, node: int) -> bool:
        return node in self.connected and node not in self.hanging

    def is_connected(self, node: int) -> bool:
        return node in self.connected

    def wall_ms(self) -> int:
        return 1_000

    def now(self) -> Instant:
        return Instant(0.0)

    def elected(self, group: GroupId, term: int) -> None:
        self.elections.append((group, term))

    def membership_changed(self, group: GroupId, change: raft.MembershipChanged | raft.MembershipRefused) -> None:
        self.memberships.append((group, change))

    def digest_ready(self, group: GroupId, digest: DigestReady) -> None:
        self.digests.append((group, digest))

    def published(self, message: Published) -> None:
        self.heard.append(message)

    def publish(self, publish: Publish) -> None:
        self.said.append(publish)


def test_a_peer_s_frame_is_taken_in_order_and_what_is_not_here_is_ignored() -> None:
    node = Node()
    node.switchboard.receive(
        3,
        [
            (1, Forward(9, 4, b"batch")),
            (99, Heartbeat(1, 2, 3)),
            (0, Heartbeat(1, 2, 3)),
            (1, ForwardQuery(9, 5, [[b"GET", b"a"]])),
            (1, Forward(9, 6, b"for one leader", 12)),
        ],
    )
    assert node.taken == [
        (GROUP, Submit(3, 9, 4, b"batch")),
        (META_GROUP, raft.Received(3, Heartbeat(1, 2, 3))),
        (GROUP, Query(3, 9, 5, [[b"GET", b"a"]])),
        (GROUP, Submit(3, 9, 6, b"for one leader", 12)),
    ]


def test_what_is_published_goes_to_the_surroundings_in_order_whatever_groups_are_here() -> None:
    node = Node()
    messages = [Published(False, b"c", b"%d" % number) for number in range(3)]
    node.switchboard.receive(3, [(int(META_GROUP), message) for message in messages])
    node.switchboard.publish(Publish([(False, b"c", b"logged")]))
    assert (node.heard, node.said, node.taken) == (messages, [Publish([(False, b"c", b"logged")])], [])


def test_answers_for_this_node_s_router_reach_it_from_here_and_from_afar() -> None:
    node = Node()
    node.colony.elect(1)
    here, afar = Sink(), Sink()
    node.router.submit([b"SET", b"a", b"1"], here)
    node.router.flush()
    node.switchboard.answer(GROUP, Answer(1, ORIGIN, True, OPENING, [4]))
    node.router.flush()
    node.switchboard.answer(GROUP, Answer(1, 4, True, 1, [OK]))
    node.router.submit([b"GET", b"a"], afar)
    node.router.flush()
    node.switchboard.receive(2, [(1, Answered(ORIGIN, False, 1, [b"1"])), (1, Refused(ORIGIN, False, 1))])
    assert (here.replies, afar.replies) == ([OK], [b"1"])
    assert node.switchboard.take_outgoing() == {}


@pytest.mark.parametrize("term_disclaimed", [True, False])
@pytest.mark.parametrize("from_afar", [True, False])
def test_what_a_leader_disclaims_reaches_the_router_from_here_and_from_afar(
    from_afar: bool, term_disclaimed: bool
) -> None:
    """Left out on one of the two ways, what did not happen was "unknown"; made up, it was the other way round."""
    node = Node()
    node.colony.elect(1)
    node.router.submit([b"SET", b"a", b"0"], Sink())
    node.router.flush()
    node.switchboard.answer(GROUP, Answer(1, ORIGIN, True, OPENING, [4]))
    node.router.flush()
    node.switchboard.answer(GROUP, Answer(1, 4, True, 1, [OK]))
    sink = Sink()
    node.router.submit([b"SET", b"a", b"1"], sink)
    node.router.flush()
    term = node.taken[-1][1].term  # type: ignore[union-attr]
    disclaimed_term = term if term_disclaimed else 0
    if from_afar:
        node.switchboard.receive(2, [(1, Refused(4, True, 2, disclaimed_term))])
    else:
        node.switchboard.answer(GROUP, Refuse(1, 4, True, 2, disclaimed_term))
    node.router.stop("test")
    expected = b"CLUSTERDOWN" if term_disclaimed else b"UNKNOWN"
    (reply,) = sink.replies
    assert isinstance(reply, Failure)
    assert reply.text.startswith(expected)


def test_answers_for_other_nodes_gather_until_they_are_taken() -> None:
    node = Node()
    node.switchboard.answer(GROUP, Answer(2, 9, True, 4, [OK]))
    node.switchboard.answer(GROUP, Refuse(3, 9, False, 5))
    node.switchboard.answer(GROUP, Refuse(3, 9, True, 6, disclaimed_term=8))
    node.switchboard.send(2, META_GROUP, Heartbeat(1, 2, 3))
    assert node.switchboard.take_outgoing() == {
        2: [(GROUP, Answered(9, True, 4, [OK])), (META_GROUP, Heartbeat(1, 2, 3))],
        3: [(GROUP, Refused(9, False, 5)), (GROUP, Refused(9, True, 6, disclaimed_term=8))],
    }
    assert node.switchboard.take_outgoing() == {}


def test_commands_go_to_the_leader_here_or_there_and_never_to_one_that_is_away() -> None:
    """A batch put into a frame that cannot leave counted as sent, and its fate as unknown."""
    node = Node()
    assert node.switchboard.dispatch_write(1, GROUP, 6, 9, 1, b"x")
    assert node.switchboard.dispatch_query(1, GROUP, 9, 2, [[b"GET", b"a"]], lease=False)
    assert node.taken == [(GROUP, Submit(1, 9, 1, b"x", term=6)), (GROUP, Query(1, 9, 2, [[b"GET", b"a"]]))]
    assert node.switchboard.dispatch_write(2, GROUP, 6, 9, 3, b"y")
    assert node.switchboard.dispatch_query(2, GROUP, 9, 4, [[b"GET", b"b"]], lease=False)
    assert not node.switchboard.dispatch_write(3, GROUP, 6, 9, 5, b"z")
    assert not node.switchboard.dispatch_query(3, GROUP, 9, 6, [], lease=False)
    assert node.switchboard.take_outgoing() == {
        2: [(GROUP, Forward(9, 3, b"y", term=6)), (GROUP, ForwardQuery(9, 4, [[b"GET", b"b"]]))]
    }
    assert node.turns_wanted == 2


def test_a_new_leader_is_asked_at_once_and_this_node_s_own_elections_are_told() -> None:
    node = Node()
    node.router.submit([b"GET", b"a"], Sink())
    node.router.flush()  # Nobody leads.
    node.colony.elect(1)
    node.switchboard.role_changed(GROUP, raft.RoleChanged("leader", 3, 1))
    node.router.tick()
    assert [event for _, event in node.taken] == [Query(1, ORIGIN, 1, [[b"GET", b"a"]])]
    node.switchboard.role_changed(GROUP, raft.RoleChanged("follower", 4, 2))
    node.switchboard.role_changed(GROUP, raft.RoleChanged("follower", 5, 0))
    assert node.elections == [(GROUP, 3)]


@pytest.mark.interpreted
def test_who_waits_for_a_key_is_told_here_and_afar(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    told: list[tuple[bytes, bytes, int]] = []
    monkeypatch.setattr(node.router.waiting_room, "key_ready", lambda *what: told.append(what))
    node.switchboard.ready(Ready(1, b"q", b"list", 2))
    node.switchboard.ready(Ready(3, b"q", b"list", 4))
    assert node.switchboard.take_outgoing() == {3: [(META_GROUP, KeyReady(b"q", b"list", 4))]}
    node.switchboard.receive(2, [(META_GROUP, KeyReady(b"r", b"zset", 5))])
    assert told == [(b"q", b"list", 2), (b"r", b"zset", 5)]


def test_every_change_of_role_is_an_event_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """bench/elections.py reads from these how long an election takes: nothing else tells when it begins."""
    node = Node()
    changes = [("pre-candidate", 2, 0), ("candidate", 3, 0), ("leader", 3, 1)]
    with caplog.at_level(logging.DEBUG, logger="noctule.node"):
        for change in changes:
            node.switchboard.role_changed(GROUP, raft.RoleChanged(*change))
    told = [record.__dict__["fields"] for record in caplog.records if record.message == "role_changed"]
    assert told == [{"group": GROUP, "role": role, "term": term, "leader": leader} for role, term, leader in changes]


def test_once_closed_nothing_is_answered_from_here() -> None:
    """The disk failed: what the replicas hold could be untrue, and they learn nothing more."""
    node = Node()
    node.colony.elect(1)
    assert node.switchboard.leader_of(GROUP) == (1, node.colony.machines[1].replicas[GROUP].raft.term)
    assert node.switchboard.read_local(GROUP, [b"GET", b"a"]) is None
    assert node.router.read_keys([[b"GET", b"a"]], 0, 0) == [None]
    node.switchboard.close()
    assert node.switchboard.leader_of(GROUP)[0] == 0
    assert node.switchboard.read_local(GROUP, [b"GET", b"a"]) is ReadOutcome.MUST_LOG
    assert node.router.read_keys([[b"GET", b"a"]], 0, 0) == []


# Groups that are not here ---------------------------------------------------------------------------------------------

AFAR = GroupId(5)
"""On nodes 2 and 3 only."""


def with_afar() -> Node:
    node = Node()
    node.partitions.put(Partition(AFAR, 8_192, 16_383, (2, 3)))
    node.switchboard.map_changed([AFAR])
    return node


def test_for_a_group_that_is_not_here_requests_are_refused_and_nothing_is_disclaimed() -> None:
    """Its replica may have been here, and may have logged an earlier copy of the very same batch."""
    node = Node()
    node.switchboard.receive(3, [(9, Forward(8, 4, b"x", 2)), (9, ForwardQuery(8, 5, [])), (9, Where())])
    assert node.taken == []
    assert node.switchboard.take_outgoing() == {3: [(9, Refused(8, True, 4)), (9, Refused(8, False, 5))]}
    assert node.turns_wanted


def test_the_leader_of_a_group_that_is_not_here_is_asked_for_and_then_known() -> None:
    node = with_afar()
    assert node.switchboard.leader_of(AFAR) == (0, 0)
    assert node.switchboard.take_outgoing() == {2: [(AFAR, Where())]}
    sink = Sink()
    node.router.submit([b"GET", b"a"], sink)
    node.router.flush()
    node.switchboard.receive(2, [(AFAR, Leads(2, 9))])
    assert node.switchboard.leader_of(AFAR) == (2, 9)
    node.router.tick()
    assert node.switchboard.take_outgoing() == {2: [(AFAR, ForwardQuery(ORIGIN, 1, [[b"GET", b"a"]]))]}


def test_who_is_asked_tells_what_its_replica_knows_and_else_says_nothing() -> None:
    node = Node()
    node.switchboard.receive(2, [(GROUP, Where())])
    assert node.switchboard.take_outgoing() == {}
    node.colony.elect(1)
    term = node.colony.machines[1].replicas[GROUP].raft.term
    node.switchboard.receive(2, [(GROUP, Where())])
    assert node.switchboard.take_outgoing() == {2: [(GROUP, Leads(1, term))]}


def test_a_refusal_names_the_leader_and_is_believed() -> None:
    node = with_afar()
    node.colony.elect(1)
    term = node.colony.machines[1].replicas[GROUP].raft.term
    node.switchboard.answer(GROUP, Refuse(2, 8, True, 4))
    assert node.switchboard.take_outgoing() == {2: [(GROUP, Refused(8, True, 4, 0, 1, term))]}
    node.connected = {2, 3}
    node.switchboard.receive(2, [(AFAR, Refused(ORIGIN, True, 1, leader=3, term=6))])
    assert node.switchboard.leader_of(AFAR) == (3, 6)


def test_a_voter_hears_of_a_leader_from_its_group_and_asks_nobody() -> None:
    node = Node()
    assert node.switchboard.leader_of(GROUP)[0] == 0
    assert node.switchboard.take_outgoing() == {}


def test_a_lost_node_is_no_leader_any_more() -> None:
    node = with_afar()
    node.switchboard.receive(2, [(AFAR, Leads(2, 9))])
    node.switchboard.peer_lost(2)
    assert node.switchboard.leader_of(AFAR)[0] == 0


def test_what_waits_at_a_replica_that_is_removed_is_refused_here_and_afar() -> None:
    node = Node()
    machine = node.colony.elect(1)
    replica = machine.replicas[GROUP]
    replica.handle(query(7, 3, b"GET a", sender=2), Instant(30.0))
    replica.handle(write(1, 1, b"SET a 1", sender=3), Instant(30.0))
    del machine.replicas[GROUP]
    node.switchboard.replica_removed(GROUP, replica)
    assert node.switchboard.take_outgoing() == {2: [(GROUP, Refused(7, False, 3))], 3: [(GROUP, Refused(1, True, 1))]}


def test_a_leader_that_hangs_is_not_asked_by_who_has_no_replica_itself() -> None:
    """It stays connected for seconds, and whoever took over tells its members only."""
    node = with_afar()
    node.connected = {2, 3}
    node.switchboard.receive(2, [(AFAR, Leads(3, 7))])
    assert node.switchboard.leader_of(AFAR) == (3, 7)
    node.hanging.add(3)
    assert node.switchboard.leader_of(AFAR)[0] == 0
    assert node.switchboard.take_outgoing() == {2: [(AFAR, Where())]}


# Shared reads ---------------------------------------------------------------------------------------------------------


def leading() -> tuple[Node, int]:
    """Node 1 leads, is connected to 2 and 3, and all nodes share reads; with the term."""
    node = Node()
    node.connected = {2, 3}
    node.switchboard.features_changed(frozenset(FEATURES))
    node.switchboard.map_changed([GROUP])
    machine = node.colony.elect(1)
    return node, machine.replicas[GROUP].raft.term


def test_reads_of_this_node_and_of_others_share_a_round_and_find_back() -> None:
    node, term = leading()
    sink = Sink()
    node.router.submit([b"EXISTS", b"a"], sink)
    node.router.flush()
    node.switchboard.receive(3, [(META_GROUP, ForwardReads(5, [1, 1], [[b"GET", b"a"], [b"GET", b"b"]]))])
    outgoing = node.switchboard.take_outgoing()
    assert outgoing.keys() == {2, 3}
    ((_, round_),) = outgoing[2]
    assert isinstance(round_, ReadRound)
    assert (round_.round, {*round_.asked}) == (ORIGIN + 1, {(1, term, 0)})
    assert (node.taken, sink.replies) == ([], [])
    node.switchboard.receive(2, [(META_GROUP, ReadRoundReply(ORIGIN + 1, 4, [(1, term)]))])
    assert sink.replies == [0]
    assert node.switchboard.take_outgoing() == {3: [(META_GROUP, ReadsAnswered(5, [None, None], []))]}
    assert (node.switchboard.requests, node.router.waiting) == ({GROUP: 3}, 0)


def test_reads_for_another_node_leave_in_its_frame_and_its_answer_reaches_the_router() -> None:
    node, _ = leading()
    node.colony.elect(2)
    node.switchboard.role_changed(GROUP, raft.RoleChanged("follower", 2, 2))
    sink, late = Sink(), Sink()
    node.router.submit([b"GET", b"a"], sink)
    node.router.flush()
    ((_, request),) = node.switchboard.take_outgoing()[2]
    assert isinstance(request, ForwardReads)
    assert (request.groups, request.commands) == ([1], [[b"GET", b"a"]])
    node.switchboard.receive(2, [(META_GROUP, ReadsAnswered(request.number, [b"1"]))])
    assert sink.replies == [b"1"]
    node.connected = set()
    node.router.submit([b"GET", b"a"], late)
    node.router.flush()
    assert node.switchboard.take_outgoing() == {}


def test_a_round_is_answered_in_its_turn_by_what_is_so_when_it_comes() -> None:
    node = Node()
    follows = raft.RoleChanged("follower", 3, 2)
    node.switchboard.role_changed(GROUP, follows)
    node.switchboard.receive(2, [(META_GROUP, ReadRound(8, [(1, 3, 0), (1, 4, 0), (0, 3, 0), (99, 3, 0)]))])
    node.switchboard.role_changed(GROUP, raft.RoleChanged("candidate", 4, 0))
    node.switchboard.receive(2, [(META_GROUP, ReadRound(9))])
    replies = [(META_GROUP, ReadRoundReply(8, ORIGIN, [(1, 3)])), (META_GROUP, ReadRoundReply(9, ORIGIN + 1, []))]
    assert node.switchboard.take_outgoing() == {2: replies}


def test_who_leads_itself_follows_nobody() -> None:
    node = Node()
    node.switchboard.role_changed(GROUP, raft.RoleChanged("leader", 3, 1))
    node.switchboard.role_changed(GROUP, raft.RoleChanged("follower", 4, 2))
    node.switchboard.receive(2, [(META_GROUP, ReadRound(8, [(1, 4, 0)]))])
    assert node.switchboard.take_outgoing() == {2: [(META_GROUP, ReadRoundReply(8, ORIGIN, [(1, 4)]))]}


def test_a_replica_that_is_removed_ceases_to_follow() -> None:
    node = Node()
    node.switchboard.role_changed(GROUP, raft.RoleChanged("follower", 3, 2))
    replica = node.colony.machines[1].replicas.pop(GROUP)
    node.switchboard.replica_removed(GROUP, replica)
    node.switchboard.receive(2, [(META_GROUP, ReadRound(8, [(1, 3, 0)]))])
    assert node.switchboard.take_outgoing() == {2: [(META_GROUP, ReadRoundReply(8, ORIGIN + 1, []))]}


def test_a_change_of_membership_has_the_group_confirmed_anew() -> None:
    node, term = leading()
    read = ForwardReads(5, [1], [[b"GET", b"a"]])

    def asked() -> list[tuple[int, int, int]]:
        node.switchboard.receive(3, [(META_GROUP, read)])
        round_ = node.switchboard.take_outgoing()[2][0][1]
        assert isinstance(round_, ReadRound)
        node.switchboard.receive(2, [(META_GROUP, ReadRoundReply(round_.round, 4, [(1, term)]))])
        node.switchboard.take_outgoing()
        return round_.asked

    assert [asked(), asked()] == [[(1, term, 0)], []]
    membership = node.colony.machines[1].replicas[GROUP].raft.log.membership
    node.switchboard.membership_changed(GROUP, raft.MembershipChanged(3, membership, False))
    assert asked() == [(1, term, 0)]


def test_whoever_waits_for_the_word_of_a_node_that_is_lost_is_told_at_once() -> None:
    """Nothing else may happen here for long: the answer must not wait for somebody to want a turn."""
    node, _ = leading()
    node.connected = {2}
    node.switchboard.receive(3, [(META_GROUP, ForwardReads(5, [1], [[b"GET", b"a"]]))])
    node.switchboard.take_outgoing()
    wanted = node.turns_wanted
    node.switchboard.peer_lost(2)
    assert node.turns_wanted == wanted + 1
    assert node.switchboard.take_outgoing() == {3: [(META_GROUP, ReadsAnswered(5, [None], [0]))]}


def test_once_closed_no_read_is_answered_from_here() -> None:
    node, term = leading()
    read = ForwardReads(5, [1], [[b"GET", b"a"]])
    node.switchboard.receive(3, [(META_GROUP, read)])
    node.switchboard.take_outgoing()
    node.switchboard.close()
    node.switchboard.receive(2, [(META_GROUP, ReadRoundReply(ORIGIN + 1, 4, [(1, term)]))])
    node.switchboard.receive(3, [(META_GROUP, read)])
    assert node.switchboard.take_outgoing() == {}
