"""One key of the registry's key-value store, read and waited for by Consul's HTTP API (`/v1/kv`)."""

from collections.abc import Sequence
from urllib.parse import quote

from msgspec import Struct

from noctule.base.errors import ConfigError, NoctuleError, UnavailableError
from noctule.client.exchange import base_url, exchange, new_session

ANSWER_TIMEOUT_S = 5.0
"""Beside the time that a blocking query may wait, and its jitter of a sixteenth."""

_REASON_CHARACTERS_MAX = 200


class KeyValue(Struct, frozen=True):
    """What a key holds."""

    index: int
    """To wait behind; 0 when it cannot be."""
    content: bytes | None
    """None: there is no such key."""


class KeyReader:
    """Questions to one registry, at one of several URLs after the other."""

    def __init__(self, urls: Sequence[str], *, token: str = "") -> None:
        if not urls:
            raise ConfigError("a registry needs a URL, such as http://127.0.0.1:7501")
        self._urls = [base_url(url, what="the registry's URL") for url in urls]
        self._headers = {"X-Consul-Token": token} if token else {}
        self._preferred = 0

    async def read(self, key: str, index: int = 0, wait_s: float = 0.0, *, bytes_max: int) -> KeyValue:
        """The key's value, once its index is above `index` or after about `wait_s`; at once for index 0.

        A node answers with what it has itself: good enough for what is followed. `UnavailableError` when no URL has an
        answer.
        """
        waiting = f"&index={index}&wait={round(wait_s * 1000)}ms" if index > 0 else ""
        timeout_s = ANSWER_TIMEOUT_S + (wait_s * 17 / 16 if index > 0 else 0.0)
        reason = ""
        for _ in self._urls:
            url = f"{self._urls[self._preferred]}/v1/kv/{quote(key)}?stale&raw{waiting}"
            try:
                return await self._read(url, timeout_s, bytes_max)
            except NoctuleError as error:
                reason = str(error)[:_REASON_CHARACTERS_MAX]
                self._preferred = (self._preferred + 1) % len(self._urls)
        raise UnavailableError(f"no node of the registry has answered: {reason}")

    async def _read(self, url: str, timeout_s: float, bytes_max: int) -> KeyValue:
        async with new_session() as session:
            answer = await exchange(
                session, "GET", url, timeout_s=timeout_s, headers=self._headers, answer_bytes_max=bytes_max
            )
        if answer.status not in (200, 404):
            words = answer.body[:_REASON_CHARACTERS_MAX].decode("utf-8", "replace").strip()
            raise UnavailableError(f"{url} answered {answer.status} {words}")
        told = answer.headers.get("X-Consul-Index", "")
        index = int(told) if told.isascii() and told.isdigit() else 0
        return KeyValue(index, answer.body if answer.status == 200 else None)
