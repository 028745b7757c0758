"""examples/sign_in: from the password to the list of devices, as a browser and an app go through it."""

import base64
import hashlib
import importlib
import sys
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

if TYPE_CHECKING:
    from engines import RedisServer

pytest_plugins = ("engines",)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.engine("redis-server"),
    pytest.mark.usefixtures("clients_leave_connections"),
]

VERIFIER = "v" * 43


def token_in(page: httpx.Response) -> str:
    """Of the form."""
    return page.text.partition('value="')[2].partition('"')[0]


async def test_a_user_signs_in_consents_and_signs_out_everywhere(
    redis_server: "RedisServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOCTULE_STORE_URL", redis_server.url)
    monkeypatch.setenv("NOCTULE_APP_SECRET", "of the tests, and long enough to be one".replace(" ", "-"))
    monkeypatch.delitem(sys.modules, "examples.sign_in.app", raising=False)
    example = importlib.import_module("examples.sign_in.app")
    challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code", "client_id": "phone", "code_challenge": challenge, "code_challenge_method": "S256",
    }  # fmt: skip
    transport = httpx.ASGITransport(example.app)
    browser = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")
    async with example.app.router.lifespan_context(example.app), browser:
        page = await browser.get("/oauth/authorize", params=query)
        assert "Sign in" in page.text
        assert page.headers["x-frame-options"] == "DENY"
        where = page.url
        ada = {"name": "ada", "password": "correct horse battery staple", "token": token_in(page)}
        for headers, form in (({}, {**ada, "token": "x"}), ({"origin": "https://evil.example"}, ada)):
            forged = await browser.post(where, data=form, headers=headers)
            assert forged.status_code == 403, "no other site signs a user in under a name of its own"
        for password, status in (("wrong", 401), ("x" * 2000, 400)):
            assert (await browser.post(where, data={**ada, "password": password})).status_code == status
        assert list(browser.cookies) == ["session-form"], "nothing is kept of who has not signed in"
        right = await browser.post(where, data=ada)
        assert right.status_code == 303
        assert set(browser.cookies) == {"session", "device"}
        page = await browser.get(right.headers["location"])
        assert "The app on your phone" in page.text
        for token in ("0" * 64, ada["token"]):
            forged = await browser.post(where, data={"token": token})
            assert forged.status_code == 403, "another site's form gets no code"
        done = await browser.post(where, data={"token": token_in(page)})
        code = parse_qs(urlsplit(done.headers["location"]).query)["code"][0]
        form = {"grant_type": "authorization_code", "code": code, "client_id": "phone", "code_verifier": VERIFIER}
        answer = (await browser.post("/oauth/token", data=form)).json()
        signed_in = {"authorization": f"Bearer {answer['access_token']}"}
        assert (await browser.get("/api/me", headers=signed_in)).json() == {"user": "ada"}
        (device,) = (await browser.get("/api/devices", headers=signed_in)).json()
        assert device["name"].startswith("python-httpx")
        assert (await browser.delete("/api/devices/nothing", headers=signed_in)).status_code == 404
        assert "Let The app on your phone" in (await browser.get(where)).text
        assert (await browser.delete("/api/devices", headers=signed_in)).status_code == 204
        assert "Sign in" in (await browser.get(where)).text, "the browser is signed out as well"
        page = await browser.get(where)
        for password, status in [*[("wrong", 401)] * 5, ("wrong", 429), ("correct horse battery staple", 429)]:
            form = {"name": "ada", "password": password, "token": token_in(page)}
            assert (await browser.post(where, data=form)).status_code == status, "as often as anybody, beside others"
        del browser.cookies["device"]
        again = {**form, "password": "correct horse battery staple"}
        assert (await browser.post(where, data=again)).status_code == 303, "three of five from here were before"
        refresh = {"grant_type": "refresh_token", "refresh_token": answer["refresh_token"], "client_id": "phone"}
        assert (await browser.post("/oauth/token", data=refresh)).json()["error"] == "invalid_grant"
        assert (await browser.get("/oauth/jwks.json")).json()["keys"]
        assert (await browser.get("/api/me")).status_code == 401
