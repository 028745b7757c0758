"""Who hears what: against a model that asks every subscription, and the bounds."""

from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noctule.base.bounds import CHANNEL_BYTES_MAX
from noctule.base.errors import InternalError
from noctule.core.keyspace.glob import PATTERN_BYTES_MAX
from noctule.core.pubsub import subscriptions as module
from noctule.core.pubsub.message import Kind, Message, confirmations
from noctule.core.pubsub.subscriptions import Subscriber, Subscriptions

KINDS = st.sampled_from(list(Kind))
NAMES = st.sampled_from([b"a", b"ab", b"b", b"a*", b"*", b"?b"])
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["subscribe", "unsubscribe", "forget", "publish", "spublish"]), st.integers(0, 2), KINDS, NAMES
    ),
    max_size=40,
)


class Ears:
    """Subscribers whose messages are kept as RESP2 bytes, in order."""

    def __init__(self, count: int) -> None:
        self.heard: list[list[bytes]] = [[] for _ in range(count)]
        self.subscribers = [Subscriber(self._ear(heard)) for heard in self.heard]

    @staticmethod
    def _ear(heard: list[bytes]) -> Callable[[Message], None]:
        return lambda message: heard.append(message.encoded(2))


def words(*items: bytes) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(b"$%d\r\n%b\r\n" % (len(item), item) for item in items)


@given(ACTIONS)
def test_everyone_hears_what_a_look_at_every_subscription_says(actions: list[tuple[str, int, Kind, bytes]]) -> None:
    subscriptions, ears = Subscriptions(), Ears(3)
    model: set[tuple[int, Kind, bytes]] = set()
    for number, (action, who, kind, name) in enumerate(actions):
        subscriber = ears.subscribers[who]
        if action == "subscribe":
            assert subscriptions.problem(subscriber, kind, [name]) == ""
            subscriptions.subscribe(subscriber, kind, name)
            model.add((who, kind, name))
        elif action == "unsubscribe":
            subscriptions.unsubscribe(subscriber, kind, name)
            model.discard((who, kind, name))
        elif action == "forget":
            subscriptions.forget(subscriber)
            model = {each for each in model if each[0] != who}
        else:
            payload, sharded = b"%d" % number, action == "spublish"
            expected: list[list[bytes]] = [[] for _ in ears.heard]
            for each, held, place in model:
                if held is Kind.PATTERN and not sharded and fnmatchcase(name.decode(), place.decode()):
                    expected[each].append(words(b"pmessage", place, name, payload))
                elif place == name and held is (Kind.SHARD if sharded else Kind.CHANNEL):
                    expected[each].append(words(held.value + b"message", name, payload))
            told = subscriptions.publish(name, payload, sharded=sharded)
            assert told == sum(map(len, expected))
            assert [sorted(heard) for heard in ears.heard] == [sorted(heard) for heard in expected]
            for heard in ears.heard:
                assert [b"pmessage" in each for each in heard] == sorted(b"pmessage" in each for each in heard)
                heard.clear()
        subscriptions.check()
        for who, subscriber in enumerate(ears.subscribers):
            own = [kind for each, kind, _ in model if each == who]
            assert subscriber.count(Kind.SHARD) == own.count(Kind.SHARD)
            assert subscriber.count(Kind.CHANNEL) == len(own) - own.count(Kind.SHARD)
        for kind in Kind:
            names = [name for _, held, name in model if held is kind]
            assert set(subscriptions.names(kind)) == set(names)
            assert all(subscriptions.listeners(kind, name) == names.count(name) for name in names)


def test_a_message_is_encoded_once_for_each_protocol_however_many_hear_it() -> None:
    subscriptions, heard = Subscriptions(), list[Message]()
    for _ in range(3):
        subscriptions.subscribe(Subscriber(heard.append), Kind.CHANNEL, b"c")
    assert subscriptions.publish(b"c", b"p", sharded=False) == 3
    for protocol in (2, 3):
        assert len({id(message.encoded(protocol)) for message in heard}) == 1
    assert heard[0].encoded(3) == b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\np\r\n"


def test_confirmations_are_pushes_with_counts_and_null_for_nothing() -> None:
    assert confirmations(b"subscribe", [(b"a", 1), (b"b", 2)], 3).data == (
        b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"
    )
    assert confirmations(b"unsubscribe", [(None, 0)], 2).data == b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"
    assert confirmations(b"unsubscribe", [(None, 0)], 3).data == b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n"


@pytest.mark.parametrize(
    ("kind", "bytes_max", "problem"),
    [
        (Kind.CHANNEL, CHANNEL_BYTES_MAX, "channel of 1025 bytes, CHANNEL_BYTES_MAX is 1024"),
        (Kind.SHARD, CHANNEL_BYTES_MAX, "channel of 1025 bytes, CHANNEL_BYTES_MAX is 1024"),
        (Kind.PATTERN, PATTERN_BYTES_MAX, "pattern of 1025 bytes, PATTERN_BYTES_MAX is 1024"),
    ],
)
def test_names_have_a_longest_length(kind: Kind, bytes_max: int, problem: str) -> None:
    subscriptions, subscriber = Subscriptions(), Ears(1).subscribers[0]
    assert subscriptions.problem(subscriber, kind, [b"x", b"x" * bytes_max]) == ""
    assert subscriptions.problem(subscriber, kind, [b"x", b"x" * (bytes_max + 1)]) == problem


def test_a_connection_has_a_bound_over_all_kinds_that_counts_no_name_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SUBSCRIPTIONS_MAX", 3)
    subscriptions, subscriber = Subscriptions(), Ears(1).subscribers[0]
    subscriptions.subscribe(subscriber, Kind.CHANNEL, b"a")
    subscriptions.subscribe(subscriber, Kind.SHARD, b"a")
    assert subscriptions.problem(subscriber, Kind.CHANNEL, [b"a", b"b", b"b"]) == ""
    problem = "too many subscriptions on one connection, SUBSCRIPTIONS_MAX is 3"
    assert subscriptions.problem(subscriber, Kind.PATTERN, [b"a", b"b"]) == problem


def test_a_node_has_a_bound_on_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATTERNS_MAX", 2)
    subscriptions, (one, other) = Subscriptions(), Ears(2).subscribers
    subscriptions.subscribe(one, Kind.PATTERN, b"a*")
    subscriptions.subscribe(one, Kind.PATTERN, b"b*")
    assert subscriptions.problem(other, Kind.PATTERN, [b"a*", b"b*"]) == ""
    assert subscriptions.problem(other, Kind.PATTERN, [b"c*"]) == "too many patterns on one node, PATTERNS_MAX is 2"
    subscriptions.unsubscribe(one, Kind.PATTERN, b"a*")
    assert subscriptions.problem(other, Kind.PATTERN, [b"c*"]) == ""


def test_a_node_has_a_bound_on_the_length_of_all_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a message costs is the product of this and the length of its channel."""
    monkeypatch.setattr(module, "PATTERN_BYTES_TOTAL_MAX", 5)
    subscriptions, (one, other) = Subscriptions(), Ears(2).subscribers
    subscriptions.subscribe(one, Kind.PATTERN, b"abc*")
    assert subscriptions.problem(other, Kind.PATTERN, [b"abc*", b"*"]) == ""
    problem = "too long patterns on one node, PATTERN_BYTES_TOTAL_MAX is 5"
    assert subscriptions.problem(other, Kind.PATTERN, [b"a*"]) == problem
    subscriptions.forget(one)
    assert subscriptions.problem(other, Kind.PATTERN, [b"a*"]) == ""


def test_check_finds_books_that_differ() -> None:
    subscriptions, subscriber = Subscriptions(), Ears(1).subscribers[0]
    subscriptions.subscribe(subscriber, Kind.CHANNEL, b"a")
    subscriber.names.clear()
    with pytest.raises(InternalError):
        subscriptions.check()
