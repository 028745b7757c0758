"""Typed client of a gateway's own API, for the command line."""

from collections.abc import Mapping
from typing import Any

import msgspec

from noctule.base.errors import ConfigError, NoctuleError, OutcomeUnknownError, RequestError, UnavailableError
from noctule.client.exchange import base_url, exchange, new_session

DEADLINE_S = 15.0

_KINDS: dict[int, type[NoctuleError]] = {
    400: RequestError,
    403: RequestError,
    404: RequestError,
    422: ConfigError,
    503: UnavailableError,
    504: OutcomeUnknownError,
}


class Progress(msgspec.Struct, frozen=True):
    """How far something is on its way out of a gateway."""

    in_flight: dict[str, int]
    is_done: bool
    version: int


class GatewayClient:
    """One conversation with a gateway at a URL; `RequestError` and its like say what the gateway said."""

    def __init__(self, url: str) -> None:
        self._url = base_url(url, what="the gateway's URL")

    async def status(self) -> dict[str, Any]:
        """Everything that the gateway shows."""
        found: dict[str, Any] = await self._ask("GET", "status")
        return found

    async def model(self) -> dict[str, Any]:
        """The config in force, what was set by command included."""
        found: dict[str, Any] = await self._ask("GET", "api/model")
        return found

    async def drain(self, service: str, instance: str, *, is_drained: bool = True) -> Progress:
        """Give an instance nothing new, or take it in again."""
        body = {"service": service, "instance": instance}
        return msgspec.convert(await self._ask("POST", "api/drain" if is_drained else "api/undrain", body), Progress)

    async def set_shares(self, route: str, shares: Mapping[str, float]) -> Progress:
        """Other shares of a route, by service."""
        return msgspec.convert(await self._ask("POST", "api/shares", {"route": route, "shares": shares}), Progress)

    async def switch(self, route: str, service: str) -> Progress:
        """Everything of a route to one service."""
        return msgspec.convert(await self._ask("POST", "api/switch", {"route": route, "service": service}), Progress)

    async def reload(self) -> dict[str, Any]:
        """Have it read its config anew; the status after that."""
        found: dict[str, Any] = await self._ask("POST", "api/reload")
        return found

    async def _ask(self, method: str, path: str, body: object = None) -> Any:
        async with new_session() as session:
            content = None if body is None else msgspec.json.encode(body)
            answer = await exchange(
                session, method, f"{self._url}/__noctule/{path}", body=content, timeout_s=DEADLINE_S
            )
        try:
            found = msgspec.json.decode(answer.body)
        except msgspec.DecodeError:
            raise RequestError(
                f"{self._url} did not answer as a gateway of Noctule does: status {answer.status}"
            ) from None
        if answer.status < 300:
            return found
        error = found.get("error", {}) if isinstance(found, dict) else {}
        kind = _KINDS.get(answer.status, NoctuleError)
        raise kind(str(error.get("message", f"the gateway answered {answer.status}")))
