"""Subscribed connections: where messages stand among replies, what may still be asked, and what is too much."""

import pytest

from noctule.base.bounds import CHANNEL_BYTES_MAX
from noctule.core.pubsub import subscriptions
from noctule.servers import resp_connection

from .resp_fakes import HandTransport, World, command

CONTEXT = (
    b"-ERR Can't execute '%b': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET "
    b"are allowed in this context\r\n"
)


@pytest.fixture
def world() -> World:
    return World()


def push(*items: bytes | int, protocol: int = 3) -> bytes:
    parts = [b":%d\r\n" % item if isinstance(item, int) else b"$%d\r\n%b\r\n" % (len(item), item) for item in items]
    return (b">" if protocol == 3 else b"*") + b"%d\r\n" % len(items) + b"".join(parts)


def publish(world: World, payload: bytes, channel: bytes = b"c") -> int:
    """As another client or node does."""
    return world.server.pubsub.publish(channel, payload, sharded=False)


def subscribed(world: World, protocol: int = 3) -> World:
    world.ask(b"HELLO", b"%d" % protocol)
    assert world.ask(b"SUBSCRIBE", b"c") == push(b"subscribe", b"c", 1, protocol=protocol)
    return world


# Order ----------------------------------------------------------------------------------------------------------------


def test_a_confirmation_waits_for_earlier_replies_and_messages_for_the_confirmation(world: World) -> None:
    """The subscription is there at once, so a message may come while the confirmation still has to wait."""
    world.send(command(b"GET", b"k") + command(b"SUBSCRIBE", b"c"))
    publish(world, b"1")
    world.loop.turn()
    assert world.take() == b""
    publish(world, b"2")
    world.store.deliver_all()
    world.loop.turn()
    messages = push(b"message", b"c", b"1", protocol=2) + push(b"message", b"c", b"2", protocol=2)
    assert world.take() == b"$-1\r\n" + push(b"subscribe", b"c", 1, protocol=2) + messages


def test_messages_do_not_wait_for_replies_that_are_owed(world: World) -> None:
    """A blocking command must not hold up a subscriber that has been confirmed; RESP3 tells the two apart."""
    subscribed(world)
    world.send(command(b"GET", b"k"))
    publish(world, b"1")
    world.loop.turn()
    assert world.take() == push(b"message", b"c", b"1")
    world.store.deliver_all()
    world.loop.turn()
    assert world.take() == b"_\r\n"


def test_once_a_message_is_in_the_queue_later_ones_stay_behind_it(world: World) -> None:
    world.ask(b"HELLO", b"3")
    world.send(command(b"GET", b"k") + command(b"SUBSCRIBE", b"c") + command(b"GET", b"l"))
    publish(world, b"1")
    world.store.deliver(0)
    world.loop.turn()
    assert world.take() == b"_\r\n" + push(b"subscribe", b"c", 1)
    publish(world, b"2")
    world.loop.turn()
    assert world.take() == b""
    world.store.deliver_all()
    world.loop.turn()
    assert world.take() == b"_\r\n" + push(b"message", b"c", b"1") + push(b"message", b"c", b"2")
    publish(world, b"3")
    world.loop.turn()
    assert world.take() == push(b"message", b"c", b"3")


def test_one_write_for_all_messages_of_a_turn(world: World) -> None:
    subscribed(world)
    for number in range(100):
        publish(world, b"%d" % number)
    assert world.transport.writes == []
    world.loop.turn()
    assert world.transport.writes == [b"".join(push(b"message", b"c", b"%d" % number) for number in range(100))]
    assert world.loop.ready == []


def test_publish_is_carried_out_behind_the_earlier_commands_of_its_connection(world: World) -> None:
    """Whoever hears ``changed`` and looks must find the change: SET and PUBLISH come in one pipeline, as ever."""
    other = World()
    other.server.pubsub = world.server.pubsub
    subscribed(other)
    world.send(command(b"SET", b"k", b"v") + command(b"PUBLISH", b"c", b"1") * 2 + command(b"PING"))
    other.loop.turn()
    assert (world.take(), other.take()) == (b"", b"")
    world.store.deliver_all()
    world.loop.turn()
    other.loop.turn()
    assert world.take() == b"+OK\r\n:1\r\n:1\r\n+PONG\r\n"
    assert other.take() == push(b"message", b"c", b"1") * 2


def test_a_pipeline_of_publishing_takes_one_turn_and_one_write(world: World) -> None:
    world.send(command(b"PUBLISH", b"c", b"p") * 500)
    assert world.transport.writes == [b":0\r\n" * 500]


def test_who_publishes_to_itself_hears_it_before_the_count_as_from_redis(world: World) -> None:
    subscribed(world)
    world.send(command(b"PING") + command(b"PUBLISH", b"c", b"1") + command(b"PUBLISH", b"c", b"2"))
    heard = [push(b"message", b"c", b"%d" % number) + b":1\r\n" for number in (1, 2)]
    assert world.take() == b"+PONG\r\n" + b"".join(heard)


def test_nothing_is_heard_after_a_connection_is_gone(world: World) -> None:
    subscribed(world)
    publish(world, b"1")
    world.connection.connection_lost(None)
    assert publish(world, b"2") == 0
    world.loop.turn()
    assert world.take() == b""
    world.server.pubsub.subscriptions.check()


# What may be asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"GET k", CONTEXT % b"get"),
        (b"CLIENT LIST", CONTEXT % b"client|list"),
        (b"HELLO 3", CONTEXT % b"hello"),
        (b"PUBLISH c x", CONTEXT % b"publish"),
        (b"GET", b"-ERR wrong number of arguments for 'get' command\r\n"),
        (b"NOPE x", b"-ERR unknown command 'NOPE', with args beginning with: 'x' \r\n"),
        (b"PING", b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"),
        (b"PING hi", b"*2\r\n$4\r\npong\r\n$2\r\nhi\r\n"),
        (b"PING a b", b"-ERR wrong number of arguments for 'ping' command\r\n"),
        (b"QUIT", b"+OK\r\n"),
        (b"SSUBSCRIBE s", push(b"ssubscribe", b"s", 1, protocol=2)),
        (b"UNSUBSCRIBE x", push(b"unsubscribe", b"x", 1, protocol=2)),
        (b"PUNSUBSCRIBE", b"*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:1\r\n"),
    ],
)
def test_a_subscribed_resp2_connection(world: World, line: bytes, reply: bytes) -> None:
    subscribed(world, 2)
    assert world.ask(*line.split()) == reply
    assert world.store.held == []


@pytest.mark.parametrize("line", [b"UNSUBSCRIBE", b"UNSUBSCRIBE c", b"RESET"])
def test_what_ends_it(world: World, line: bytes) -> None:
    subscribed(world, 2)
    world.ask(*line.split())
    assert publish(world, b"x") == 0
    assert world.ask(b"GET", b"k") == b"$-1\r\n"
    assert world.ask(b"PING") == b"+PONG\r\n"


def test_a_resp3_connection_may_ask_anything(world: World) -> None:
    subscribed(world)
    assert world.ask(b"GET", b"k") == b"_\r\n"
    assert world.ask(b"PING") == b"+PONG\r\n"


def test_client_list_counts_each_kind_and_tells_subscribers_apart(world: World) -> None:
    world.connect(HandTransport())
    subscribed(world)
    world.ask(b"PSUBSCRIBE", b"a*", b"b*")
    world.ask(b"SSUBSCRIBE", b"s")
    line = world.client.line(world.clock.now()).decode()
    fields = dict(field.split("=") for field in line.split())
    assert [fields[name] for name in ("flags", "sub", "psub", "ssub")] == ["P", "1", "2", "1"]
    assert b"id=1 " in world.ask(b"CLIENT", b"LIST", b"TYPE", b"pubsub")
    normal = world.ask(b"CLIENT", b"LIST", b"TYPE", b"normal")
    assert b"id=2 " in normal
    assert b"id=1 " not in normal


def test_pubsub_tells_of_channels_with_their_counts(world: World) -> None:
    subscribed(world)
    world.ask(b"PSUBSCRIBE", b"a*")
    world.ask(b"SSUBSCRIBE", b"s")
    assert world.ask(b"PUBSUB", b"CHANNELS") == b"*1\r\n$1\r\nc\r\n"
    assert world.ask(b"PUBSUB", b"CHANNELS", b"x*") == b"*0\r\n"
    assert world.ask(b"PUBSUB", b"NUMSUB", b"c", b"x") == b"*4\r\n$1\r\nc\r\n:1\r\n$1\r\nx\r\n:0\r\n"
    assert world.ask(b"PUBSUB", b"NUMPAT") == b":1\r\n"
    assert world.ask(b"PUBSUB", b"SHARDCHANNELS") == b"*1\r\n$1\r\ns\r\n"
    assert world.ask(b"PUBSUB", b"SHARDNUMSUB", b"s") == b"*2\r\n$1\r\ns\r\n:1\r\n"
    assert b"pubsub_channels:1\r\npubsub_patterns:1\r\npubsubshard_channels:1\r\n" in world.ask(b"INFO", b"stats")


# Too much -------------------------------------------------------------------------------------------------------------


def test_too_long_and_too_many_are_refused_and_change_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "SUBSCRIPTIONS_MAX", 2)
    refusal = b"-ERR too many subscriptions on one connection, SUBSCRIPTIONS_MAX is 2\r\n"
    assert world.ask(b"SUBSCRIBE", b"a", b"b", b"c") == refusal
    long = b"x" * (CHANNEL_BYTES_MAX + 1)
    assert world.ask(b"SUBSCRIBE", b"a", long) == b"-ERR channel of 1025 bytes, CHANNEL_BYTES_MAX is 1024\r\n"
    assert world.ask(b"PUBLISH", long, b"x") == b"-ERR channel of 1025 bytes, CHANNEL_BYTES_MAX is 1024\r\n"
    assert world.ask(b"PSUBSCRIBE", b"*" * 1_025) == b"-ERR pattern of 1025 bytes, PATTERN_BYTES_MAX is 1024\r\n"
    assert world.ask(b"PUBSUB", b"CHANNELS", b"*" * 1_025)[:1] == b"-"
    assert not world.client.subscriber.names


@pytest.fixture
def thrifty(monkeypatch: pytest.MonkeyPatch) -> World:
    """A subscriber whose bounds on unread messages are small."""
    monkeypatch.setattr(resp_connection, "OUTPUT_BYTES_HIGH", 1_000)
    monkeypatch.setattr(resp_connection, "PUBSUB_OUTPUT_BYTES_TARGET", 4_000)
    monkeypatch.setattr(resp_connection, "PUBSUB_OUTPUT_BYTES_MAX", 16_000)
    world = World()
    world.transport.client_reads()
    return subscribed(world)


LARGE = b"v" * 1_000


@pytest.mark.interpreted
def test_a_subscriber_that_does_not_read_is_dropped_at_the_bound(thrifty: World) -> None:
    turns = 0
    while not thrifty.transport.is_aborted:
        publish(thrifty, LARGE)
        thrifty.loop.turn()
        turns += 1
        assert turns < 20
    assert thrifty.transport.unread < 18_000
    assert thrifty.server.clients_dropped_total == 1
    publish(thrifty, LARGE)
    assert thrifty.loop.ready == []


@pytest.mark.interpreted
def test_one_turn_cannot_bring_more_than_the_bound(thrifty: World) -> None:
    for _ in range(100):
        publish(thrifty, LARGE)
    assert thrifty.transport.is_aborted
    thrifty.loop.turn()
    assert thrifty.take() == b""


@pytest.mark.interpreted
def test_messages_behind_a_reply_that_does_not_come_are_bounded_too(thrifty: World) -> None:
    thrifty.send(command(b"GET", b"k") + command(b"SUBSCRIBE", b"d"))
    for _ in range(100):
        publish(thrifty, LARGE)
        thrifty.loop.turn()
    assert thrifty.transport.is_aborted


@pytest.mark.interpreted
def test_who_publishes_too_much_to_itself_is_dropped(thrifty: World) -> None:
    thrifty.send(command(b"GET", b"k") + command(b"PUBLISH", b"c", LARGE) * 100)
    thrifty.store.deliver_all()
    thrifty.loop.settle()
    assert thrifty.transport.is_aborted


def test_what_has_left_is_not_counted_again(thrifty: World) -> None:
    """Both ways: messages at once, and messages through the queue."""
    for number in range(40):
        thrifty.send(command(b"GET", b"k") + command(b"SUBSCRIBE", b"d"))
        publish(thrifty, LARGE)
        thrifty.store.deliver_all()
        thrifty.loop.turn()
        publish(thrifty, LARGE)
        thrifty.loop.turn()
        thrifty.transport.client_reads()
        assert not thrifty.transport.is_aborted, number
    assert thrifty.take().count(LARGE) == 80


@pytest.mark.interpreted
def test_more_than_the_lower_bound_is_borne_for_a_while(thrifty: World) -> None:
    for _ in range(6):
        publish(thrifty, LARGE)
        thrifty.loop.turn()
    assert not thrifty.transport.is_aborted
    thrifty.loop.time_passes()
    assert thrifty.transport.is_aborted


def test_a_subscriber_that_has_read_everything_in_between_is_kept(thrifty: World) -> None:
    for _ in range(2):
        for _ in range(6):
            publish(thrifty, LARGE)
            thrifty.loop.turn()
        thrifty.transport.client_reads()
    for _ in range(6):
        publish(thrifty, LARGE)
    thrifty.loop.turn()
    thrifty.loop.time_passes()
    assert not thrifty.transport.is_aborted
