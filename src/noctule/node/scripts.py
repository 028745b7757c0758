"""Scripts by their digests, on one node: those that it has seen lately, and behind them those that *meta* keeps.

What SCRIPT LOAD has acknowledged is in *meta*, so it survives every restart and failover, and every node finds it: a
node that has not seen a digest asks before it says NOSCRIPT. What EVAL brings is kept there too, without waiting for
it; its client has not been promised anything.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TypeAlias

from noctule.base.ids import Instant
from noctule.core.keyspace.reply import OK, Failure, Reply
from noctule.core.keyspace.scripting import NO_SCRIPT, ScriptEngine, script_digest
from noctule.node.api import Commands

SCRIPTS_MAX = 1_000
"""Scripts kept in *meta*; several nodes that load at once may go over it by as many as they are."""
SEEN_BYTES_MAX = 16 * 1024 * 1024
"""Bodies that a node remembers, the one unused for the longest forgotten first."""
SEEN_S_MAX = 60.0
"""For so long a node goes by what it has seen; so it learns of a SCRIPT FLUSH on another node."""
SAVING_MAX = 8
"""Scripts of EVAL on their way to *meta*; one more is not sent, and comes again with its next EVAL."""
FLUSH_KEYS_MAX = 500
"""Keys removed by one command."""

_PREFIX = b"script:"
_FULL = Failure(b"ERR no room for another script, SCRIPTS_MAX is %d; SCRIPT FLUSH makes room" % SCRIPTS_MAX)

Then: TypeAlias = Callable[[Reply], None]
"""Told the reply, once, now or later."""


class Scripts:
    """What a node knows of scripts."""

    def __init__(self, meta: Commands, engine: ScriptEngine, now: Callable[[], Instant]) -> None:
        self._meta = meta
        self._engine = engine
        self._now = now
        self._seen: OrderedDict[bytes, tuple[bytes, Instant]] = OrderedDict()
        """By digest: the body, and when it was last known to be kept."""
        self._seen_bytes = 0
        self._saving = 0

    def get(self, digest: bytes) -> bytes | None:
        """The body, if this node has seen it lately."""
        seen = self._seen.get(digest)
        if seen is None or self._now() - seen[1] > SEEN_S_MAX:
            return None
        self._seen.move_to_end(digest)
        return seen[0]

    def find(self, digest: bytes, then: Then) -> None:
        """The body, from *meta* if need be; else a `Failure`, which is NOSCRIPT only when *meta* says so."""
        body = self.get(digest)
        if body is not None:
            then(body)
            return

        def answered(reply: Reply) -> None:
            if isinstance(reply, bytes):
                self._remember(digest, reply)
            else:
                self._forget(digest)
            then(reply if reply is not None else NO_SCRIPT)

        self._ask([b"GET", _PREFIX + digest], answered)

    def see(self, body: bytes) -> None:
        """EVAL brings this script: remember it here now, and in *meta* soon."""
        digest = script_digest(body)
        if self.get(digest) is not None or self._saving >= SAVING_MAX:
            return
        self._saving += 1
        self._remember(digest, body)

        def answered(_reply: Reply) -> None:
            self._saving -= 1

        self._save(digest, body, answered)

    def load(self, body: bytes, then: Then) -> None:
        """SCRIPT LOAD: its digest, once *meta* has it; or why it is no script, or cannot be kept."""
        problem = self._engine.compile(body)
        if problem is not None:
            then(problem)
            return
        digest = script_digest(body)

        def answered(reply: Reply) -> None:
            if reply == OK:
                self._remember(digest, body)
            then(digest if reply == OK else reply)

        self._save(digest, body, answered)

    def exists(self, digests: Iterable[bytes], then: Then) -> None:
        """SCRIPT EXISTS: 1 or 0 for each, as *meta* says."""
        names = [digest.lower() for digest in digests]

        def answered(reply: Reply) -> None:
            if not isinstance(reply, list):
                then(reply)
                return
            for name, body in zip(names, reply, strict=True):
                if isinstance(body, bytes):
                    self._remember(name, body)
            then([int(body is not None) for body in reply])

        self._ask([b"MGET", *(_PREFIX + name for name in names)], answered)

    def flush(self, then: Then) -> None:
        """SCRIPT FLUSH: forget all of them. Other nodes hear of it within SEEN_S_MAX."""

        def removed(reply: Reply) -> None:
            if isinstance(reply, Failure):
                then(reply)
            else:
                self.flush(then)

        def listed(reply: Reply) -> None:
            if isinstance(reply, list) and reply:
                names = [name for name in reply if isinstance(name, bytes)]
                self._ask([b"DEL", *names[:FLUSH_KEYS_MAX]], removed)
            else:
                self._seen.clear()
                self._seen_bytes = 0
                then(reply if isinstance(reply, Failure) else OK)

        self._ask([b"KEYS", _PREFIX + b"*"], listed)

    def _save(self, digest: bytes, body: bytes, then: Then) -> None:
        def listed(reply: Reply) -> None:
            if isinstance(reply, list) and len(reply) >= SCRIPTS_MAX and _PREFIX + digest not in reply:
                then(_FULL)
            elif isinstance(reply, Failure):
                then(reply)
            else:
                self._ask([b"SET", _PREFIX + digest, body], then)

        self._ask([b"KEYS", _PREFIX + b"*"], listed)

    def _ask(self, args: list[bytes], then: Then) -> None:
        self._meta.submit(args, Told(then))

    def _remember(self, digest: bytes, body: bytes) -> None:
        self._forget(digest)
        self._seen[digest] = body, self._now()
        self._seen_bytes += len(body)
        while self._seen_bytes > SEEN_BYTES_MAX:
            self._forget(next(iter(self._seen)))

    def _forget(self, digest: bytes) -> None:
        seen = self._seen.pop(digest, None)
        if seen is not None:
            self._seen_bytes -= len(seen[0])


class Told:
    """A sink that hands its reply on."""

    __slots__ = ("_then",)

    def __init__(self, then: Then) -> None:
        self._then = then

    def deliver(self, reply: Reply) -> None:
        """To whoever waits."""
        self._then(reply)
