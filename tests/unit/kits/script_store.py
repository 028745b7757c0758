"""A store in this process that runs the very scripts of the kits, by Noctule's Lua over Noctule's keyspace.

Each command waits for its turn first, which whoever drives the coroutines gives: no event loop, no socket, no chance.
PYTEST_DONT_REWRITE, as tests import names from here.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import SimpleNamespace
from typing import Any

from noctule.adapters.lua_engine import LuaEngine
from noctule.core.keyspace.keyspace import Keyspace
from noctule.core.keyspace.reply import Failure, Status

_ENGINE = LuaEngine(cpu_ms_max=60_000)  # A busy machine may take its time.


class Turn:
    """What a coroutine waits for before each command."""

    def __await__(self) -> Generator["Turn", None, None]:
        yield self


class ScriptStore:
    """The part of redis-py's client that the session kit uses. `repeats`: each script is asked again, as when its
    answer was lost. `after` is called with every command once it has been carried out."""

    def __init__(self, keyspace: Keyspace, *, repeats: bool = False, now_ms: int = 1_700_000_000_000) -> None:
        self.keyspace = keyspace
        self.now_ms = now_ms
        self.repeats = repeats
        self.sources: dict[str, str] = {}
        self.without_turn: set[str] = set()
        """Commands that are carried out with what went before."""
        self.after: Callable[[list[bytes], Any], None] = lambda _words, _reply: None

    def get_encoder(self) -> Any:
        """That of a client that gives bytes."""
        return SimpleNamespace(decode_responses=False)

    def learn(self, *scripts: Any) -> None:
        """Know scripts by their digests."""
        self.sources |= {script.digest: script.source for script in scripts}

    def do(self, *words: Any) -> Any:
        """Carry out one command now."""
        reply = self._execute([_bytes(word) for word in words])
        assert not isinstance(reply, Failure), reply
        return reply

    def run(self, digest: str, keys: int, *words: Any) -> Any:
        """Run a script now."""
        encoded = [_bytes(word) for word in words]
        outcome = _ENGINE.run(self.sources[digest].encode(), encoded[:keys], encoded[keys:], self._command)
        assert not isinstance(outcome.reply, Failure), outcome.reply
        self.after([digest.encode(), *encoded], outcome.reply)
        return outcome.reply

    async def evalsha(self, digest: str, keys: int, *words: Any) -> Any:
        """As redis-py."""
        await Turn()
        reply = self.run(digest, keys, *words)
        if self.repeats:
            await Turn()
            reply = self.run(digest, keys, *words)
        return reply

    async def hgetall(self, key: str) -> dict[bytes, bytes]:
        """As redis-py."""
        await Turn()
        reply: dict[bytes, bytes] = self.do("HGETALL", key)
        return reply

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def command(*words: Any) -> Any:
            if name not in self.without_turn:
                await Turn()
            return self.do(name.upper(), *words)

        return command

    def _command(self, words: list[bytes]) -> Any:
        if words[0].upper() == b"TIME":
            return [b"%d" % (self.now_ms // 1000), b"%d" % (self.now_ms % 1000 * 1000)]
        return self._execute(words)

    def _execute(self, words: list[bytes]) -> Any:
        reply = self.keyspace.execute(words, self.now_ms)
        return reply.text if isinstance(reply, Status) else reply


def run_alone(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Drive a coroutine to its end, giving it every turn."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value


def _bytes(word: Any) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()
