"""Who is suspected, who is trusted, and what it costs."""

from noctule.base.ids import Instant
from noctule.core.roster.liveness import (
    Connected,
    Disconnected,
    Effect,
    FrameHeard,
    FrameSent,
    Liveness,
    PeersChanged,
    SendHeartbeat,
    Suspected,
    Tick,
    Trusted,
)


class Watch:
    """A machine and its clock; peers in `speaking` say something every 50 ms."""

    def __init__(self, *peers: int) -> None:
        self.now = 1_000.0
        self.liveness = Liveness(peers, Instant(self.now))
        self.speaking: set[int] = set()
        self._said_at = self.now

    def tell(self, *events: object) -> list[Effect]:
        """Events at this instant."""
        return [effect for event in events for effect in self.liveness.handle(event, Instant(self.now))]  # type: ignore[arg-type]

    def run(self, seconds: float) -> list[Effect]:
        """Time passes in steps of 10 ms, with every tick in its time."""
        effects: list[Effect] = []
        for _ in range(round(seconds * 100)):
            self.now += 0.01
            if self.now >= self._said_at + 0.05:
                self._said_at = self.now
                effects += self.tell(*(FrameHeard(peer) for peer in sorted(self.speaking)))
            if self.now >= self.liveness.next_deadline():
                effects += self.tell(Tick())
        return effects


def news(effects: list[Effect]) -> list[Effect]:
    """Without the heartbeats."""
    return [effect for effect in effects if not isinstance(effect, SendHeartbeat)]


def test_a_peer_hears_something_every_interval_and_a_heartbeat_only_when_nothing_else() -> None:
    watch = Watch(2, 3)
    watch.speaking = {2, 3}
    sent = watch.run(1.0)
    assert 18 <= sent.count(SendHeartbeat(2)) <= 20
    for _ in range(100):
        watch.tell(FrameSent(2))
        assert SendHeartbeat(2) not in watch.run(0.01)


def test_a_closed_connection_is_suspicion_at_once_and_the_next_frame_ends_it() -> None:
    watch = Watch(2, 3)
    watch.speaking = {2, 3}
    watch.run(1.0)
    assert watch.tell(Disconnected(2)) == [Suspected(2)]
    assert watch.tell(Disconnected(2)) == []
    assert watch.liveness.suspects(2)
    assert watch.tell(FrameHeard(2)) == [Trusted(2)]
    assert not watch.liveness.suspects(2)


def test_a_silent_node_is_suspected_once_and_in_half_a_second() -> None:
    watch = Watch(2, 3)
    watch.speaking = {2, 3}
    watch.run(2.0)
    watch.speaking = {3}
    assert news(watch.run(0.3)) == []
    assert news(watch.run(0.4)) == [Suspected(2)]
    assert news(watch.run(60.0)) == []


def test_who_was_never_heard_is_suspected_too() -> None:
    """Else a group whose third member is down since before the first start would never rest."""
    watch = Watch(2)
    assert news(watch.run(1.0)) == [Suspected(2)]


def test_nobody_is_suspected_because_this_process_stood_still() -> None:
    """A stopped or busy process finds its clock far ahead, and all that its peers said still unread."""
    watch = Watch(2, 3)
    watch.speaking = {2, 3}
    watch.run(1.0)
    watch.now += 30.0
    assert news(watch.tell(Tick())) == []
    assert news(watch.run(1.0)) == []
    watch.speaking = {3}
    watch.run(0.1)
    watch.now += 30.0
    assert news(watch.run(0.2)) == []
    assert news(watch.run(0.5)) == [Suspected(2)], "who really died meanwhile is found when we look again"


def test_another_incarnation_leads_nothing_that_the_one_before_led() -> None:
    """Replaced faster than its connection was missed: the groups it led must still hear of it."""
    watch = Watch(2)
    watch.speaking = {2}
    assert watch.tell(Connected(2, 11)) == []
    watch.run(1.0)
    assert watch.tell(Connected(2, 11)) == []
    assert watch.tell(Connected(2, 12)) == [Suspected(2), Trusted(2)]


def test_who_is_no_peer_any_more_is_suspected_for_the_last_time() -> None:
    """A group that slept under it would else wait for it for ever."""
    watch = Watch(2, 3)
    assert watch.tell(PeersChanged((3,))) == [Suspected(2)]
    assert watch.tell(FrameHeard(2), Disconnected(2), Connected(2, 5), FrameSent(2)) == []


def test_who_is_a_peer_again_is_trusted_by_its_first_word() -> None:
    """A node that starts, and follows an older map at first, forgets who joined last and then hears of them again. Its
    groups had been told that those were gone, and never that they are there: they campaigned against them for ever."""
    watch = Watch(2, 3)
    assert watch.tell(PeersChanged((3,)), PeersChanged((2, 3))) == [Suspected(2)]
    assert watch.liveness.suspects(2)
    assert watch.tell(Connected(2, 5)) == [Trusted(2)]
    assert watch.tell(FrameHeard(2)) == []
    assert watch.tell(Disconnected(3), PeersChanged((2,)), PeersChanged((2, 3)), FrameHeard(3)) == [
        Suspected(3),
        Trusted(3),
    ]


def test_heartbeats_of_a_node_are_bounded_whatever_the_number_of_nodes() -> None:
    for count in (3, 10, 30, 100):
        watch = Watch(*range(2, count + 2))
        watch.speaking = set(range(2, count + 2))
        sent = [effect for effect in watch.run(2.0) if isinstance(effect, SendHeartbeat)]
        assert len(sent) <= 2.0 * 205, count
