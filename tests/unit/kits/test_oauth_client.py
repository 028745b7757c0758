"""Sign-in at a provider with id tokens: state, nonce, PKCE and issuer must all be those of this browser's attempt."""

import base64
import hashlib
import json
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from starlette.requests import Request

from noctule.adapters.system_clock import SystemClock
from noctule.base.errors import ConfigError, UnavailableError
from noctule.kits.oauth_client import OutsideProvider, SignInError

ISSUER = "https://provider.example"
KEY = generate_private_key(65537, 2048)
CALLBACK = "https://app.example/callback"


class Provider:
    """An OpenID Connect provider of the least kind; `claims` change what its id tokens say."""

    def __init__(self) -> None:
        self.asked: dict[str, str] = {}
        self.claims: dict[str, Any] = {}
        self.is_away = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.is_away:
            raise httpx.ConnectError("away", request=request)
        if request.url.path == "/.well-known/openid-configuration":
            endpoints = {name: f"{ISSUER}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
            algorithms = {"id_token_signing_alg_values_supported": ["RS256"]}
            return httpx.Response(200, json={"issuer": ISSUER, **endpoints, **algorithms})
        if request.url.path == "/jwks_uri":
            jwk = json.loads(pyjwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key()))
            return httpx.Response(200, json={"keys": [{**jwk, "kid": "k", "alg": "RS256", "use": "sig"}]})
        form = dict(parse_qsl(request.content.decode()))
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == self.asked["code_challenge"]
        now = SystemClock().wall_ms() // 1000
        claims = {"iss": ISSUER, "sub": "ada", "aud": "us", "iat": now, "exp": now + 60, "nonce": self.asked["nonce"]}
        id_token = pyjwt.encode(claims | self.claims, KEY, "RS256", {"kid": "k"})
        return httpx.Response(200, json={"access_token": "a", "token_type": "Bearer", "id_token": id_token})


def request_of(session: dict[str, Any], query: str = "") -> Request:
    return Request({
        "type": "http", "method": "GET", "path": "/callback", "query_string": query.encode(), "headers": [],
        "session": session,
    })  # fmt: skip


def kit(provider: Provider) -> OutsideProvider:
    return OutsideProvider(
        "provider",
        client_id="us",
        client_secret="secret",
        metadata_url=f"{ISSUER}/.well-known/openid-configuration",
        client_options={"transport": httpx.MockTransport(provider)},
    )


async def begun(provider: Provider, session: dict[str, Any]) -> OutsideProvider:
    made = kit(provider)
    answer = await made.begin(request_of(session), CALLBACK)
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    provider.asked = {name: values[0] for name, values in asked.items()}
    assert provider.asked["code_challenge_method"] == "S256"
    assert {"state", "nonce", "code_challenge"} <= set(provider.asked)
    return made


async def test_who_comes_back_in_the_same_browser_is_signed_in_once() -> None:
    provider, session = Provider(), {}  # type: ignore[var-annotated]
    await begun(provider, session)
    other_instance = kit(provider)
    query = f"code=c&state={provider.asked['state']}"
    token = await other_instance.finish(request_of(session, query))
    assert token["userinfo"]["sub"] == "ada"
    with pytest.raises(SignInError):
        await other_instance.finish(request_of(session, query))


@pytest.mark.parametrize(
    "claims",
    [{"nonce": "another"}, {"aud": "them"}, {"iss": "https://evil.example"}, {"exp": 1000, "iat": 900}],
    ids=["nonce", "audience", "issuer", "expired"],
)
async def test_an_id_token_that_is_not_for_this_attempt_is_refused(claims: dict[str, Any]) -> None:
    provider, session = Provider(), {}  # type: ignore[var-annotated]
    made = await begun(provider, session)
    provider.claims = claims
    with pytest.raises(SignInError):
        await made.finish(request_of(session, f"code=c&state={provider.asked['state']}"))


@pytest.mark.parametrize("query", ["code=c&state=another", "code=c", "error=access_denied&state={state}", ""])
async def test_an_answer_to_another_question_is_refused(query: str) -> None:
    provider, session = Provider(), {}  # type: ignore[var-annotated]
    made = await begun(provider, session)
    with pytest.raises(SignInError):
        await made.finish(request_of(session, query.format(state=provider.asked["state"])))
    with pytest.raises(SignInError):
        await made.finish(request_of({}, f"code=c&state={provider.asked['state']}"))
    mixed_up = f"code=c&state={provider.asked['state']}&iss=https://evil.example"
    with pytest.raises(SignInError, match="not that of the provider"):
        await made.finish(request_of(session, mixed_up))


async def test_a_provider_that_is_away_is_told_apart() -> None:
    provider = Provider()
    provider.is_away = True
    with pytest.raises(UnavailableError):
        await kit(provider).begin(request_of({}), CALLBACK)
    with pytest.raises(ConfigError, match="https"):
        OutsideProvider("x", client_id="us", metadata_url="http://provider.example/")
