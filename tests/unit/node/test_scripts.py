"""What a node knows of scripts: everything that was promised is in *meta*, and NOSCRIPT is said by *meta* only."""

from collections.abc import Callable

import pytest

from noctule.adapters.lua_engine import LuaEngine
from noctule.base.consistency import ConsistencyLevel
from noctule.base.ids import Instant
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.keyspace.scripting import NO_SCRIPT, script_digest
from noctule.node import scripts as module
from noctule.node.api import ReplySink
from noctule.node.scripts import SAVING_MAX, SEEN_S_MAX, Scripts

BODY = b"return 1"
DIGEST = script_digest(BODY)
DOWN = Failure(b"CLUSTERDOWN nobody leads; nothing was applied")


class Meta:
    """A keyspace that answers when it is told to."""

    def __init__(self) -> None:
        self.keyspace = Keyspace()
        self.waiting: list[tuple[list[bytes], ReplySink]] = []
        self.is_held = False
        self.is_down = False
        self.asked: list[bytes] = []

    def submit(
        self, args: list[bytes], sink: ReplySink, consistency: ConsistencyLevel = ConsistencyLevel.LINEARIZABLE
    ) -> None:
        self.asked.append(args[0])
        self.waiting.append((args, sink))
        if not self.is_held:
            self.answer()

    def answer(self) -> None:
        waiting, self.waiting = self.waiting, []
        for args, sink in waiting:
            sink.deliver(DOWN if self.is_down else self.keyspace.execute(args, 1))


class Node:
    """One node's scripts, its clock set by hand."""

    def __init__(self, meta: Meta) -> None:
        self.now = 0.0
        self.scripts = Scripts(meta, LuaEngine(), lambda: Instant(self.now))


@pytest.fixture
def meta() -> Meta:
    return Meta()


@pytest.fixture
def node(meta: Meta) -> Node:
    return Node(meta)


def told(ask: Callable[[Callable[[Reply], None]], None]) -> Reply:
    """What was told, once."""
    replies: list[Reply] = []
    ask(replies.append)
    (reply,) = replies
    return reply


def load(node: Node, body: bytes = BODY) -> Reply:
    return told(lambda then: node.scripts.load(body, then))


def find(node: Node, digest: bytes = DIGEST) -> Reply:
    return told(lambda then: node.scripts.find(digest, then))


def test_what_one_node_has_loaded_every_node_finds(meta: Meta, node: Node) -> None:
    assert load(node) == DIGEST
    assert node.scripts.get(DIGEST) == BODY
    other = Node(meta)
    assert other.scripts.get(DIGEST) is None
    assert find(other) == BODY
    assert other.scripts.get(DIGEST) == BODY


def test_a_load_is_answered_once_it_is_kept_and_not_before(meta: Meta, node: Node) -> None:
    """An answer that came earlier could be forgotten with its node."""
    meta.is_held = True
    replies: list[Reply] = []
    node.scripts.load(BODY, replies.append)
    while meta.waiting:
        assert replies == []
        meta.answer()
    assert replies == [DIGEST]


def test_a_load_that_fails_says_so(meta: Meta, node: Node) -> None:
    meta.is_down = True
    assert load(node) == DOWN
    assert node.scripts.get(DIGEST) is None
    reply = load(node, b"foo(")
    assert isinstance(reply, Failure)
    assert reply.text.startswith(b"ERR Error compiling script")


def test_noscript_is_said_by_meta_only(meta: Meta, node: Node) -> None:
    assert find(node) == NO_SCRIPT
    meta.is_down = True
    assert find(node) == DOWN


def test_eval_leaves_its_script_for_all(meta: Meta, node: Node) -> None:
    node.scripts.see(BODY)
    assert find(Node(meta)) == BODY
    asked = len(meta.asked)
    node.scripts.see(BODY)
    assert len(meta.asked) == asked, "a known script is no news"


def test_scripts_of_eval_do_not_flood_meta(meta: Meta, node: Node) -> None:
    """Some programs write their arguments into the script: each is another one."""
    meta.is_held = True
    for number in range(10 * SAVING_MAX):
        node.scripts.see(b"return %d" % number)
    assert len(meta.waiting) == SAVING_MAX


def test_there_is_room_for_so_many(meta: Meta, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCRIPTS_MAX", 2)
    assert isinstance(load(node, b"return 1"), bytes)
    assert isinstance(load(node, b"return 2"), bytes)
    assert load(node, b"return 3") == module._FULL
    assert isinstance(load(node, b"return 2"), bytes)  # It is kept already.


def test_a_node_remembers_bodies_up_to_a_bound(meta: Meta, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEEN_BYTES_MAX", 20)
    digests = [load(node, b"return %d" % number) for number in range(10)]
    seen = [digest for digest in digests if isinstance(digest, bytes) and node.scripts.get(digest) is not None]
    assert seen == digests[-2:]
    assert all(isinstance(digest, bytes) and isinstance(find(node, digest), bytes) for digest in digests)


def test_a_flush_is_heard_by_other_nodes_after_a_while(meta: Meta, node: Node) -> None:
    other = Node(meta)
    load(node)
    assert find(other) == BODY
    assert told(node.scripts.flush) == OK
    assert find(node) == NO_SCRIPT
    assert find(other) == BODY
    other.now += SEEN_S_MAX + 1
    assert find(other) == NO_SCRIPT
    assert other.scripts.get(DIGEST) is None


def test_a_flush_of_many_takes_several_commands(meta: Meta, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_KEYS_MAX", 3)
    meta.keyspace.execute([b"SET", b"instance:1", b"x"], 1)
    for number in range(10):
        load(node, b"return %d" % number)
    assert told(node.scripts.flush) == OK
    assert meta.keyspace.execute([b"KEYS", b"*"], 1) == [b"instance:1"]


def test_exists_is_answered_in_order_and_remembered(meta: Meta, node: Node) -> None:
    load(node)
    other = Node(meta)
    assert told(lambda then: other.scripts.exists([b"f" * 40, DIGEST.upper()], then)) == [0, 1]
    assert other.scripts.get(DIGEST) == BODY
    meta.is_down = True
    assert told(lambda then: other.scripts.exists([DIGEST], then)) == DOWN
