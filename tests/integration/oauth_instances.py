"""Instances of an app that gives tokens and takes them, all on one store, in this process.

PYTEST_DONT_REWRITE, as tests also import names from here, which pytest would warn about.
"""

import asyncio
import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from noctule.kits.asgi import Receive, Scope, Send, send_json
from noctule.kits.jwt.access_tokens import AccessTokens
from noctule.kits.jwt.app_keys import AppKeys
from noctule.kits.jwt.key_ring import SigningKeyRing
from noctule.kits.jwt.ring_state import RingPolicy
from noctule.kits.oauth2.bearer import BearerAuth
from noctule.kits.oauth2.checks import Checks, Mode
from noctule.kits.oauth2.client_store import ClientStore
from noctule.kits.oauth2.clients import Client, new_client_secret
from noctule.kits.oauth2.grants import Grants, GrantTimes
from noctule.kits.oauth2.messages import AuthorizationRequest
from noctule.kits.oauth2.revocations import Revocations
from noctule.kits.oauth2.server import Approval, Approved, AuthorizationServer
from noctule.kits.store import connect

ISSUER = "https://id.example"
AUDIENCE = "https://api.example"
OTHER_AUDIENCE = "https://other.example"
REDIRECT = "https://app.example/callback"
APP_SECRET = "of the tests, and long enough to be one"
SECRET, SECRET_SHA256 = new_client_secret()
SCOPES = ("posts:read", "posts:write")
CLIENTS = [
    Client("app", "The app", (REDIRECT,), scopes=SCOPES, audiences=(OTHER_AUDIENCE,)),
    Client(
        "web", "A server", (REDIRECT,), scopes=SCOPES,
        auth_method="client_secret_basic", secret_sha256=SECRET_SHA256,
    ),
    Client(
        "job", grants=("client_credentials",), scopes=("posts:read",),
        auth_method="client_secret_post", secret_sha256=SECRET_SHA256,
    ),
]  # fmt: skip


@dataclass
class Answered:
    """What came back."""

    status: int
    body: Any
    raw: bytes
    headers: httpx.Headers


class Instance:
    """One app instance."""

    def __init__(
        self, url: str, *, mode: Mode = "hybrid", times: GrantTimes, policy: RingPolicy, staleness_s_max: float
    ) -> None:
        self.store = connect(url)
        self.grants = Grants(self.store, times=times)
        self.ring = SigningKeyRing(self.store, AppKeys([APP_SECRET]), policy=policy)
        self.tokens = AccessTokens(self.ring, issuer=ISSUER, audience=AUDIENCE)
        self.revocations = Revocations(self.grants, staleness_s_max=staleness_s_max)
        self.checks = Checks(self.tokens, mode, revocations=self.revocations, grants=self.grants)
        self.clients = ClientStore(CLIENTS, self.store)
        self.subject = "ada"
        server = AuthorizationServer(self.tokens, self.grants, self.clients, self._approve)
        transport = httpx.ASGITransport(server, client=("192.0.2.7", 5))
        self.http = httpx.AsyncClient(transport=transport, base_url=ISSUER)
        self.api = httpx.AsyncClient(
            transport=httpx.ASGITransport(BearerAuth(_who, self.checks, public=("/health",))), base_url=AUDIENCE
        )

    async def _approve(self, scope: Scope, receive: Receive, request: AuthorizationRequest) -> Approval:
        return Approved(self.subject, name="a test")

    async def code(self, client_id: str = "app", **fields: str) -> tuple[str, str]:
        """A code for the subject, and the verifier that goes with it."""
        verifier = secrets.token_urlsafe(32)
        digest = hashlib.sha256(verifier.encode()).digest()
        query = {
            "response_type": "code", "client_id": client_id, "redirect_uri": REDIRECT, "state": "s",
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), "code_challenge_method": "S256",
        } | fields  # fmt: skip
        answer = await self.http.get("/authorize", params=query)
        assert answer.status_code == 303, answer.text
        told = parse_qs(urlsplit(answer.headers["location"]).query)
        assert told["iss"] == [ISSUER]
        return told["code"][0], verifier

    async def sign_in(self, client_id: str = "app", subject: str = "ada") -> dict[str, Any]:
        """The tokens of a new family."""
        self.subject = subject
        code, verifier = await self.code(client_id)
        answer = await self.exchange(code, verifier, client_id)
        assert answer.status == 200, answer.raw
        assert isinstance(answer.body, dict)
        return answer.body

    async def exchange(self, code: str, verifier: str, client_id: str = "app") -> Answered:
        """One use of a code."""
        auth = ("web", SECRET) if client_id == "web" else None
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "code_verifier": verifier}
        return await self.post("/token", {**form, "client_id": client_id}, auth)

    async def refresh(self, refresh_token: str, **fields: str) -> Answered:
        """One refresh by the public client."""
        return await self.post(
            "/token", {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": "app"} | fields
        )

    async def post(self, path: str, form: dict[str, str], auth: tuple[str, str] | None = None) -> Answered:
        """A form to the authorization server."""
        answer = await self.http.post(path, data=form, auth=auth)  # type: ignore[arg-type]
        body = answer.json() if answer.content else None
        return Answered(answer.status_code, body, answer.content, answer.headers)

    async def who(self, access_token: str | None, path: str = "/") -> int:
        """The status of a request to the API with this token."""
        headers = {"authorization": f"Bearer {access_token}"} if access_token else {}
        return (await self.api.get(path, headers=headers)).status_code

    async def open_connections(self) -> None:
        """So many that concurrent requests really meet in the store."""
        await asyncio.gather(*(self.store.ping() for _ in range(60)))

    async def aclose(self) -> None:
        """Close what was opened."""
        await self.revocations.aclose()
        await self.http.aclose()
        await self.api.aclose()
        await self.store.aclose()


async def _who(scope: Scope, receive: Receive, send: Send) -> None:
    token = scope.get("auth")
    await send_json(send, 200, {"subject": token.subject if token else None})


@asynccontextmanager
async def instances(
    url: str,
    count: int = 3,
    *,
    mode: Mode = "hybrid",
    times: GrantTimes = GrantTimes(),  # noqa: B008 - it is frozen
    policy: RingPolicy = RingPolicy(),  # noqa: B008 - it is frozen
    staleness_s_max: float = 10.0,
) -> AsyncIterator[Sequence[Instance]]:
    """So many instances, which follow the log of revocations."""
    made = [Instance(url, mode=mode, times=times, policy=policy, staleness_s_max=staleness_s_max) for _ in range(count)]
    try:
        if mode == "hybrid":
            for each in made:
                await each.revocations.wait_fresh(20.0)
        yield made
    finally:
        for each in made:
            await each.aclose()
