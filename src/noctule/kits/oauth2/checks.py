"""Whether an access token is good: its signature and claims, and whether it was revoked, in one of three modes.

| mode | what a check asks | after a revocation it is refused |
|---|---|---|
| ``jwt`` | nobody | when it expires, `GrantTimes.access_s` at the latest |
| ``hybrid`` | this instance's copy of the log | when the log has told: milliseconds, `staleness_s_max` at most |
| ``server`` | the store | at once |

While the store is away ``jwt`` goes on, ``hybrid`` for `staleness_s_max`, ``server`` not at all.
"""

from typing import Literal

from noctule.base.errors import ConfigError
from noctule.kits.jwt.access_tokens import AccessTokens
from noctule.kits.jwt.claims import TOKEN_IS_INVALID, AccessToken
from noctule.kits.oauth2.errors import InvalidTokenError
from noctule.kits.oauth2.grants import Grants
from noctule.kits.oauth2.revocations import Revocations

Mode = Literal["jwt", "hybrid", "server"]


class Checks:
    """Answers for one app instance. ``hybrid`` needs `revocations`, ``server`` needs `grants`."""

    def __init__(
        self,
        tokens: AccessTokens,
        mode: Mode = "hybrid",
        *,
        revocations: Revocations | None = None,
        grants: Grants | None = None,
    ) -> None:
        if mode not in ("jwt", "hybrid", "server"):
            raise ConfigError("access token checks: mode must be jwt, hybrid or server")
        if (mode == "hybrid" and revocations is None) or (mode == "server" and grants is None):
            raise ConfigError(
                f"access token checks: mode {mode} needs {'grants' if mode == 'server' else 'revocations'}"
            )
        self.mode: Mode = mode
        self._tokens = tokens
        self._revocations = revocations if mode == "hybrid" else None
        self._grants = grants if mode == "server" else None

    async def check(self, text: str) -> AccessToken:
        """The token. Raises `InvalidTokenError`, or `UnavailableError` where it cannot be told."""
        token = await self._tokens.verify(text)
        if not await self.is_alive(token):
            raise InvalidTokenError(TOKEN_IS_INVALID)
        return token

    async def is_alive(self, token: AccessToken) -> bool:
        """Whether a token that was good still is: not revoked since. Raises `UnavailableError`."""
        if self._revocations is not None:
            return self._revocations.check(token)
        if self._grants is not None:
            return await self._grants.is_alive(
                subject=token.subject, family=token.family, jti=token.id, position=token.position
            )
        return True

    def start(self) -> None:
        """Begin to follow the log, where the mode does."""
        if self._revocations is not None:
            self._revocations.start()

    async def aclose(self) -> None:
        """Stop following."""
        if self._revocations is not None:
            await self._revocations.aclose()
