"""A Lua script that the store knows by its digest: sent whole only to a store that does not."""

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError


class Script:
    """One script. `run` is one round trip, two after a store was started anew."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, store: Redis, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        """What it answers; raises redis-py's errors. All keys share one hash tag."""
        client: Any = store
        try:
            return await client.evalsha(self.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return await client.eval(self.source, len(keys), *keys, *arguments)
