"""A router and three real replicas, between which everything is lost, doubled and held back: no outcome is wrong.

Copies of requests arrive long after their refusals, at leaders of later terms, or at the same one leading again.
"""

import random
from collections import Counter

import msgspec
import pytest

from noctule.base.ids import META_GROUP, GroupId, Instant
from noctule.core.keyspace.keyspace import ReadOutcome
from noctule.core.keyspace.reply import Failure, Reply
from noctule.core.raft import events as raft
from noctule.core.replica import replica as replica_module
from noctule.core.replica.batches import Batch
from noctule.core.replica.client_sessions import SESSION_EXPIRES_MS
from noctule.core.replica.events import Answer, Query, Refuse, Submit
from noctule.node.lanes import RETRY_DELAY_S
from noctule.node.router import ANSWER_TIMEOUT_S, Router
from tests.unit.core.replica.colony import GROUP, Colony, Machine, write
from tests.unit.node.maps import even_map

from .fake_dispatch import Sink

DEADLINE_S = 0.2
MAJORITIES = ((1, 2), (2, 3), (1, 3), (1, 2, 3), (1, 2, 3))
STEPS = {
    "request arrives": 1,
    "request is doubled": 4,
    "reply arrives": 4,
    "reply is doubled": 1,
    "reply is lost": 2,
    "a node ends its turn": 3,
    "another node writes": 2,
    "messages arrive": 2,
    "campaign": 3,
    "no leader is known": 3,
    "a leader is known": 2,
    "peer is lost": 1,
    "clock jumps": 0.5,
}
"""What may happen to one write before its deadline, and how often against each other."""
STEPS_MAX = 16


class Scene:
    """One router's node, which sees the group through the eyes of one replica at a time, and the way between them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.colony = Colony(3)
        self.now = Instant(0.0)
        self.view = 1
        """0: it knows of no leader at all."""
        self.requests: list[tuple[int, Submit | Query]] = []
        self.replies: list[Answer | Refuse] = []
        self.others = 10
        """The newest session that another node used; all those it will use are open."""
        self.increments: list[Sink] = []
        """Number n increments field n of a hash, which nothing else does."""
        self.sent: set[int] = set()
        """The increments that left."""
        self.router = Router(
            partitions=even_map(1),
            dispatch=self,
            new_origin=lambda: self.chance.getrandbits(62),
            now=lambda: self.now,
            request_deadline_s=DEADLINE_S,
        )
        self.colony.elect(1)
        self.write()
        self.heal()

    # Dispatch ---------------------------------------------------------------------------------------------------------

    def leader_of(self, group: GroupId) -> tuple[int, int]:
        assert group != META_GROUP
        if not self.view:
            return 0, 0
        consensus = self.colony.machines[self.view].replica.raft
        return consensus.leader, consensus.term

    def dispatch_write(
        self,
        to: int,
        group: GroupId,
        term: int,
        origin: int,
        sequence: int,
        batch: bytes,
        *,
        has_scripts: bool = False,
    ) -> bool:
        self.requests.append((to, Submit(1, origin, sequence, batch, term)))
        self.sent |= {int(args[2]) for args in msgspec.msgpack.decode(batch, type=Batch).commands}
        return True

    def dispatch_query(
        self, to: int, group: GroupId, origin: int, number: int, commands: list[list[bytes]], *, lease: bool
    ) -> bool:
        raise AssertionError("nobody reads")

    def read_local(self, group: GroupId, command: list[bytes]) -> Reply | ReadOutcome:
        raise AssertionError("nobody reads")

    def read_keys(
        self, slot_table: list[GroupId], commands: list[list[bytes] | Failure], start: int, wall_ms: int
    ) -> list[Reply]:
        raise AssertionError("nobody reads")

    def schedule_turn(self) -> None:
        """Every step ends the router's turn."""

    # What happens -----------------------------------------------------------------------------------------------------

    @property
    def leads(self) -> list[Machine]:
        """Who believes to lead, the one of the latest term last: the others learn nothing while time stands still."""
        leading = [machine for machine in self.colony.machines.values() if machine.replica.raft.is_leader()]
        return sorted(leading, key=lambda machine: machine.replica.raft.term)

    def write(self) -> None:
        """One more increment, which is sent at once if a session is open; of the first one nothing but that is left."""
        self.increments.append(Sink())
        field = b"%d" % (len(self.increments) - 1)
        self.router.submit([b"HINCRBY", b"h", field, b"1"], self.increments[-1])
        self.end_turn()

    def step(self, what: str) -> None:
        chance = self.chance
        match what:
            case "request arrives" | "request is doubled" if self.requests:
                at = self.one_of(self.requests)
                to, request = self.requests[at] if what == "request is doubled" else self.requests.pop(at)
                self.colony.machines[to].take(request)
            case "reply arrives" | "reply is doubled" | "reply is lost" if self.replies:
                at = self.one_of(self.replies)
                reply = self.replies[at] if what == "reply is doubled" else self.replies.pop(at)
                if what != "reply is lost":
                    self.tell(reply)
            case "a node ends its turn":
                chance.choice(list(self.colony.machines.values())).turn()
            case "another node writes" if self.leads:
                self.others += 1
                self.leads[-1].take(write(self.others, 1, b"SET other 1", sender=2))
            case "messages arrive":
                self.colony.settle_between(*chance.choice(MAJORITIES))
            case "campaign":
                self.campaign(chance.choice((1, 2, 3)), chance.choice(MAJORITIES))
            case "no leader is known":
                self.view = 0
            case "a leader is known":
                self.view = chance.choice((1, 2, 3))
                self.now = Instant(self.now + RETRY_DELAY_S)
                self.router.tick()
            case "peer is lost":
                self.router.peer_lost(chance.choice((1, 2, 3)))
            case "clock jumps":
                self.colony.wall_ms[chance.choice((1, 2, 3))] += chance.choice((-2, 2)) * SESSION_EXPIRES_MS
        self.end_turn()

    def one_of(self, messages: list[tuple[int, Submit | Query]] | list[Answer | Refuse]) -> int:
        """Often the newest; else one that may be very old."""
        return self.chance.choice((len(messages) - 1, self.chance.randrange(len(messages))))

    def campaign(self, node: int, among: tuple[int, ...]) -> None:
        self.colony.now = Instant(self.colony.now + 20.0)
        self.colony.machines[node].take(raft.Tick())
        self.colony.settle_between(*among)

    def tell(self, reply: Answer | Refuse) -> None:
        if isinstance(reply, Answer):
            self.router.answered(GROUP, reply.origin, reply.number, reply.results, is_write=reply.is_write)
        else:
            self.router.refused(
                GROUP,
                reply.origin,
                reply.number,
                is_write=reply.is_write,
                disclaimed_term=reply.disclaimed_term,
            )

    def end_turn(self) -> None:
        self.router.flush()
        for machine in self.colony.machines.values():
            self.replies += [answer for answer in machine.taken_answers() if answer.to == 1]

    def heal(self) -> None:
        """Every copy that is still on its way arrives, and the router is heard until nobody waits any more."""
        for _ in range(200):
            if self.leads and not self.requests and not self.replies and not self.router.waiting:
                return
            if self.leads:
                self.view = self.leads[-1].node_id
                self.colony.heartbeat(self.view)
            else:
                self.campaign(self.chance.choice((1, 2, 3)), (1, 2, 3))
            for to, request in self.requests:
                self.colony.machines[to].take(request)
            self.requests.clear()
            self.colony.settle()
            self.end_turn()
            for reply in self.replies:
                self.tell(reply)
            self.replies.clear()
            self.now = Instant(self.now + ANSWER_TIMEOUT_S + 0.01)
            self.router.tick()
            self.end_turn()
        raise AssertionError("the router never comes to rest")

    # What became of it ------------------------------------------------------------------------------------------------

    def check(self) -> Counter[str]:
        """Hold what was told against what happened; how often each was told."""
        fields = self.leads[-1].replica.read_local([b"HGETALL", b"h"], 0)
        assert isinstance(fields, dict)
        told: Counter[str] = Counter()
        for number, sink in enumerate(self.increments):
            (reply,) = sink.replies
            applied = fields.get(b"%d" % number, 0)
            if not isinstance(reply, Failure):
                outcome, is_right = "applied", applied == b"1" and reply == 1
            elif reply.text.startswith(b"UNKNOWN"):
                outcome, is_right = "unknown", applied in (0, b"1")
            else:
                outcome = "sent and not applied" if number in self.sent else "not sent"
                is_right = applied == 0
            assert is_right, f"increment {number} was answered {reply!r} and applied {applied!r} times"
            told[outcome] += 1
        return told


@pytest.mark.parametrize("part", range(4))
def test_nothing_is_applied_twice_or_after_it_was_said_not_to_be(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "WAITING_BYTES_MAX", 10)  # A second batch is over it.
    told: Counter[str] = Counter()
    for seed in range(part, 1_600, 4):
        scene = Scene(seed)
        scene.write()
        for what in scene.chance.choices(list(STEPS), weights=list(STEPS.values()), k=STEPS_MAX):
            scene.step(what)
        scene.now = Instant(scene.now + DEADLINE_S)
        scene.router.tick()
        scene.heal()
        told += scene.check()
    assert all(told[outcome] > 10 for outcome in ("applied", "unknown", "sent and not applied")), told
