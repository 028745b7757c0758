"""FastAPI's dependencies for apps behind `BearerAuth`; needs FastAPI.

    @app.get("/me")
    async def me(user: Annotated[str, Depends(current_user)]) -> ...

    @app.post("/posts", dependencies=[require_scopes("posts:write")])

WebSocket routes take the same ones. `user_by` loads the user: the token says only who it is.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, HTTPException, Security, WebSocketException
from fastapi.security import SecurityScopes
from starlette.requests import HTTPConnection

from noctule.kits.jwt.claims import AccessToken
from noctule.kits.oauth2.bearer import POLICY_VIOLATION, challenge
from noctule.kits.oauth2.errors import InsufficientScopeError, OAuth2Error

User = TypeVar("User")


async def current_token(connection: HTTPConnection, needed: SecurityScopes) -> AccessToken:
    """The token of the request, with all scopes that its dependants ask for. Raises 401 or 403 with a challenge."""
    token = connection.scope.get("auth")
    if not isinstance(token, AccessToken):
        raise _refusal(connection, None, "")
    if not set(needed.scopes) <= token.scopes:
        raise _refusal(connection, InsufficientScopeError("the access token lacks a scope"), needed.scope_str)
    return token


async def current_user(connection: HTTPConnection, token: Annotated[AccessToken, Security(current_token)]) -> str:
    """The user of the token. Raises 403 for a client's own, which may be called like a user (RFC 9700 4.15)."""
    if token.is_of_client:
        raise _refusal(connection, InsufficientScopeError("the access token is that of a client, and of no user"), "")
    return token.subject


def require_scopes(*scopes: str) -> Any:
    """A dependency that lets in who has all of these."""
    return Security(current_token, scopes=list(scopes))


def user_by(load: Callable[[str], Awaitable[User | None]]) -> Any:
    """A dependency that gives what `load` makes of the subject; a user who is gone is refused (401)."""

    async def loaded_user(connection: HTTPConnection, subject: Annotated[str, Depends(current_user)]) -> User:
        user = await load(subject)
        if user is None:
            raise _refusal(connection, None, "")
        return user

    return Depends(loaded_user)


def _refusal(connection: HTTPConnection, error: OAuth2Error | None, scopes: str) -> Exception:
    text = str(error) if error is not None else "an access token is needed"
    if connection.scope["type"] == "websocket":
        return cast("Exception", WebSocketException(POLICY_VIOLATION, text))
    headers = {"www-authenticate": challenge(error, scope_needed=scopes)}
    return HTTPException(error.status if error is not None else 401, text, headers)
