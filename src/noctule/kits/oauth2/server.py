"""The authorization server as one ASGI app, to be mounted anywhere.

    server = AuthorizationServer(tokens, grants, clients, approve)
    app.mount("/oauth", server)

/authorize, /token, /revoke (RFC 7009), /introspect (RFC 7662), /.well-known/oauth-authorization-server (RFC 8414) and
/jwks.json. Who the user is and what they consent to, the app says: `Approve`. A browser app on another origin needs the
app's CORS middleware around /token.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import msgspec

from noctule.base.errors import ConfigError, NoctuleError
from noctule.kits.asgi import App, Message, Receive, Scope, Send, header_values, send_json
from noctule.kits.client_address import client_address, parse_networks
from noctule.kits.jwt.access_tokens import AccessTokens, Signer
from noctule.kits.jwt.ring_state import JWKS_MAX_AGE_S
from noctule.kits.oauth2.checks import Checks
from noctule.kits.oauth2.client_store import ClientStore
from noctule.kits.oauth2.clients import Client, check_credentials, read_credentials
from noctule.kits.oauth2.errors import (
    AccessDeniedError,
    InvalidClientError,
    InvalidRequestError,
    InvalidScopeError,
    InvalidTokenError,
    OAuth2Error,
    ServerError,
    TemporarilyUnavailableError,
    UnauthorizedClientError,
    UnsupportedTokenTypeError,
)
from noctule.kits.oauth2.grants import Answer, GrantMeta, Grants, Issue
from noctule.kits.oauth2.messages import (
    FORM_BYTES_MAX,
    AuthorizationRequest,
    CodeGrant,
    Grant,
    RedirectedError,
    RefreshGrant,
    read_authorization,
    read_form,
    read_grant,
    redirection,
)

RETRY_AFTER_S = 1

log = logging.getLogger("noctule.kits.oauth2")


@dataclass(frozen=True, slots=True)
class Approved:
    """The user is signed in and consents."""

    subject: str
    scopes: Sequence[str] | None = None
    """Of those that were asked for; None: all."""
    name: str = ""
    """Of the device, for the user's list."""


class Refused:
    """The user, or the app, says no."""


Approval: TypeAlias = Approved | Refused | App
"""An app, such as any Starlette response, answers instead: with a page to sign in or to consent, or a redirection
there. It comes back to the same URL when it is done."""

Approve: TypeAlias = Callable[[Scope, Receive, AuthorizationRequest], Awaitable[Approval]]
"""Asked for each GET and POST of /authorize whose parameters, in the query, are in order."""

_PAGE_HEADERS = [
    # RFC 9700 4.16: nobody is to click on a consent that they do not see. And the URL holds what is nobody's business.
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


class AuthorizationServer:
    """ASGI app. The issuer is that of `tokens`: the URL under which this app is mounted.

    `checks` is who introspection asks; None: the store, at each question. Clients without a secret may not introspect.
    Raises `ConfigError` for an issuer that is no https URL, or no loopback one.
    """

    def __init__(
        self,
        tokens: AccessTokens,
        grants: Grants,
        clients: ClientStore,
        approve: Approve,
        *,
        checks: Checks | None = None,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        parts = urlsplit(tokens.issuer)
        is_secure = parts.scheme == "https" or parts.hostname in ("127.0.0.1", "::1", "localhost", "testserver")
        if not parts.hostname or not is_secure or parts.query or parts.fragment or tokens.issuer.endswith("/"):
            raise ConfigError("OAuth issuer must be an https URL without query, fragment or a slash at its end")
        self._tokens = tokens
        self._grants = grants
        self._clients = clients
        self._approve = approve
        self._checks = checks or Checks(tokens, "server", grants=grants)
        self._trusted = parse_networks(trusted_proxies)
        self._routes: dict[tuple[str, str], Callable[[Scope, Receive, Send], Awaitable[None]]] = {
            ("GET", "/authorize"): self._authorize,
            ("POST", "/authorize"): self._authorize,
            ("POST", "/token"): self._token,
            ("POST", "/revoke"): self._revoke,
            ("POST", "/introspect"): self._introspect,
            ("GET", "/.well-known/oauth-authorization-server"): self._metadata,
            ("HEAD", "/.well-known/oauth-authorization-server"): self._metadata,
            ("GET", "/jwks.json"): self._jwks,
            ("HEAD", "/jwks.json"): self._jwks,
        }

    @property
    def metadata(self) -> dict[str, Any]:
        """RFC 8414 2; for an issuer with a path also wanted at ``/.well-known/oauth-authorization-server<path>``."""
        methods = ["client_secret_basic", "client_secret_post", "none"]
        issuer = self._tokens.issuer
        return {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "revocation_endpoint": f"{issuer}/revoke",
            "introspection_endpoint": f"{issuer}/introspect",
            "jwks_uri": f"{issuer}/jwks.json",
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": methods,
            "revocation_endpoint_auth_methods_supported": methods,
            "introspection_endpoint_auth_methods_supported": methods[:2],
            "authorization_response_iss_parameter_supported": True,  # RFC 9207 3.
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "there is no WebSocket here"})
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        route = self._routes.get((scope["method"], path))
        if route is not None:
            await self._serve(route, scope, receive, send)
            return
        allowed = [known for known, at in self._routes if at == path]
        status, headers = (405, [(b"allow", ", ".join(allowed).encode())]) if allowed else (404, [])
        await _send_error(send, InvalidRequestError("there is nothing here for this method"), status, headers)

    async def _serve(
        self, route: Callable[[Scope, Receive, Send], Awaitable[None]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            await route(scope, receive, send)
        except OAuth2Error as error:
            await _send_error(send, error, error.status)
        except NoctuleError as error:
            log.warning("oauth_not_served", extra={"path": scope["path"], "reason": str(error)})
            if error.retryable or error.outcome == "unknown":
                # A refresh or revocation that is sent again is the same one; a code that was spent is spent.
                refusal: OAuth2Error = TemporarilyUnavailableError("the store is away; try again")
            else:
                refusal = ServerError("the server cannot serve this request")
            await _send_error(send, refusal, refusal.status)

    # Codes ------------------------------------------------------------------------------------------------------------

    async def _authorize(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            query = read_form(scope.get("query_string", b""))
            client = await self._clients.find(query.get("client_id", ""))
            request = read_authorization(query, client, self._tokens.audience)
            approval = await self._approve(scope, receive, request)
            if isinstance(approval, Refused):
                refusal = AccessDeniedError("the request was refused")
                raise RedirectedError(refusal, request.redirect_uri, request.state)
            if not isinstance(approval, Approved):
                await approval(scope, receive, _with_headers(send))
                return
            scopes = request.scopes if approval.scopes is None else tuple(approval.scopes)
            if not set(scopes) <= set(request.scopes):
                raise ConfigError("approve granted a scope that was not asked for")
            code = await self._grants.save_code(request, approval.subject, scopes, approval.name)
            await self._redirect(send, request.redirect_uri, {"code": code, "state": request.state})
        except RedirectedError as refused:
            error = {"error": refused.error.code, "error_description": str(refused.error), "state": refused.state}
            await self._redirect(send, refused.redirect_uri, error)

    async def _redirect(self, send: Send, uri: str, answer: dict[str, str | None]) -> None:
        location = redirection(uri, {**answer, "iss": self._tokens.issuer})  # RFC 9207.
        headers = [(b"location", location.encode("latin-1")), (b"cache-control", b"no-store"), *_PAGE_HEADERS]
        # 303, so that no browser posts a password from the consent page on to the client (RFC 9700 4.12).
        await send({"type": "http.response.start", "status": 303, "headers": [*headers, (b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    # Tokens -----------------------------------------------------------------------------------------------------------

    async def _token(self, scope: Scope, receive: Receive, send: Send) -> None:
        form = await _form(scope, receive)
        client = await self._client(scope, form)
        grant = read_grant(form, client, self._tokens.audience)
        await _send_answer(send, await self._answer(grant, client, self._address(scope)))

    async def _answer(self, grant: Grant, client: Client, address: str) -> bytes:
        # The key is fetched before the decision, so that nothing is awaited between making an answer and keeping it.
        signer = await self._tokens.signer()
        if isinstance(grant, CodeGrant):
            return await self._grants.exchange(
                grant.code,
                client.id,
                grant.redirect_uri,
                grant.challenge,
                self._maker(signer, ()),
                refreshes="refresh_token" in client.grants,
                address=address,
            )
        if isinstance(grant, RefreshGrant):
            maker = self._maker(signer, grant.scopes)
            return await self._grants.rotate(grant.refresh_token, client.id, maker, address)
        # RFC 9068 2.2: where no user is involved, the client is the subject.
        meta = GrantMeta(client.id, grant.scopes, grant.audience)
        issue = await self._grants.issue_directly(meta, client.id)
        return self._maker(signer, ())(issue, None)

    def _maker(self, signer: Signer, narrowed: tuple[str, ...]) -> Answer:
        life_s = self._grants.times.access_s

        def make(issue: Issue, refresh_token: str | None) -> bytes:
            if not set(narrowed) <= set(issue.meta.scopes):
                raise InvalidScopeError("the scope is more than was granted")
            scopes = narrowed or issue.meta.scopes
            access_token = signer.sign(
                subject=issue.meta.subject,
                client_id=issue.client_id,
                audience=issue.meta.audience,
                scopes=scopes,
                family=issue.family,
                position=issue.position,
                now_ms=issue.now_ms,
                life_s=life_s,
            )
            answer = {"access_token": access_token, "token_type": "Bearer", "expires_in": life_s}
            if scopes:
                answer["scope"] = " ".join(scopes)
            if refresh_token is not None:
                answer["refresh_token"] = refresh_token
            return msgspec.json.encode(answer)

        return make

    # Revocation and introspection -------------------------------------------------------------------------------------

    async def _revoke(self, scope: Scope, receive: Receive, send: Send) -> None:
        form = await _form(scope, receive)
        client = await self._client(scope, form)
        if "token" not in form:
            raise InvalidRequestError("token is missing")
        if form["token"].startswith("nac."):
            raise UnsupportedTokenTypeError("codes cannot be revoked; they end by themselves")
        if form["token"].startswith("nrt."):
            await self._grants.revoke_refresh(form["token"], client.id)
        else:
            try:
                token = await self._tokens.verify_issued(form["token"])
            except InvalidTokenError:
                token = None
            if token is not None:
                if token.client_id != client.id:
                    raise UnauthorizedClientError("the token was issued to another client")  # RFC 7009 2.1.
                await self._grants.revoke_access(token.subject, token.id)
        # RFC 7009 2.2: a token that is not valid is as good as revoked.
        await _send_answer(send, b"")

    async def _introspect(self, scope: Scope, receive: Receive, send: Send) -> None:
        form = await _form(scope, receive)
        client = await self._client(scope, form)
        if client.is_public:
            raise InvalidClientError("a client that keeps no secret may not introspect")
        if "token" not in form:
            raise InvalidRequestError("token is missing")
        await _send_answer(send, msgspec.json.encode(await self._picture(form["token"])))

    async def _picture(self, text: str) -> dict[str, Any]:
        """RFC 7662 2.2."""
        if text.startswith("nrt."):
            found = await self._grants.refresh_picture(text)
            if found is None:
                return {"active": False}
            return {
                "active": True,
                "client_id": found.client_id,
                "sub": found.meta.subject,
                "scope": " ".join(found.meta.scopes),
                "iat": found.created_ms // 1000,
                "exp": found.expires_ms // 1000,
                "iss": self._tokens.issuer,
            }
        try:
            token = await self._tokens.verify_issued(text)
        except InvalidTokenError:
            return {"active": False}
        if not await self._checks.is_alive(token):
            return {"active": False}
        return {
            "active": True,
            "token_type": "Bearer",
            "client_id": token.client_id,
            "sub": token.subject,
            "scope": " ".join(sorted(token.scopes)),
            "aud": list(token.audience),
            "iss": token.issuer,
            "iat": token.issued_s,
            "exp": token.expires_s,
            "jti": token.id,
        }

    # What all may read ------------------------------------------------------------------------------------------------

    async def _metadata(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send_public(send, msgspec.json.encode(self.metadata))

    async def _jwks(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send_public(send, msgspec.json.encode(await self._tokens.ring.jwks()))

    # Inside -----------------------------------------------------------------------------------------------------------

    async def _client(self, scope: Scope, form: dict[str, str]) -> Client:
        found = header_values(scope["headers"], b"authorization")
        credentials = read_credentials(found[0] if found else None, form)
        return check_credentials(await self._clients.find(credentials.client_id), credentials)

    def _address(self, scope: Scope) -> str:
        peer = scope.get("client")
        address = client_address(peer[0] if peer else None, scope["headers"], self._trusted)
        return "" if address is None else str(address)


async def _form(scope: Scope, receive: Receive) -> dict[str, str]:
    kinds = header_values(scope["headers"], b"content-type")
    if not kinds or kinds[0].partition(b";")[0].strip().lower() != b"application/x-www-form-urlencoded":
        raise InvalidRequestError("the body must be application/x-www-form-urlencoded")
    if scope.get("query_string"):
        # RFC 6749 2.3.1: credentials and tokens stay out of URLs, which are logged.
        raise InvalidRequestError("parameters belong into the body")
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise InvalidRequestError("the request ended before its body did")
        body += message.get("body", b"")
        if len(body) > FORM_BYTES_MAX:
            raise InvalidRequestError(f"the body is longer than {FORM_BYTES_MAX} bytes")
        if not message.get("more_body", False):
            return read_form(body)


async def _send_error(send: Send, error: OAuth2Error, status: int, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    headers = [*headers]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="oauth"'))
    if status == 503:
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    await send_json(send, status, {"error": error.code, "error_description": str(error)}, headers)


async def _send_answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"cache-control", b"no-store"), (b"pragma", b"no-cache")]  # RFC 6749 5.1.
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_public(send: Send, body: bytes) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", f"public, max-age={JWKS_MAX_AGE_S}".encode()),
        (b"access-control-allow-origin", b"*"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_PAGE_HEADERS]}
        await send(message)

    return sending
