"""Sign in by name and password; let other apps act for you; see where you are signed in, and end it from anywhere.

    export NOCTULE_STORE_URL=redis://127.0.0.1:7401/0 NOCTULE_APP_SECRET=$(openssl rand -hex 32)
    uvicorn examples.sign_in.app:app

Nothing lives in the process: any number of instances on one store are one authorization server and one API.
"""

import html
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from noctule.base.errors import RequestError
from noctule.kits.asgi import Receive, Scope
from noctule.kits.client_address import client_address, subject_of
from noctule.kits.csrf import CsrfError, check_csrf, csrf_token
from noctule.kits.jwt.access_tokens import AccessTokens
from noctule.kits.jwt.app_keys import AppKeys
from noctule.kits.jwt.key_ring import SigningKeyRing
from noctule.kits.known_devices import KnownDevices
from noctule.kits.limiter import Limiter
from noctule.kits.oauth2.bearer import BearerAuth
from noctule.kits.oauth2.checks import Checks
from noctule.kits.oauth2.client_store import ClientStore
from noctule.kits.oauth2.clients import Client
from noctule.kits.oauth2.fastapi import current_user, require_scopes
from noctule.kits.oauth2.grants import Grants
from noctule.kits.oauth2.messages import AuthorizationRequest
from noctule.kits.oauth2.revocations import Revocations
from noctule.kits.oauth2.server import Approval, Approved, AuthorizationServer
from noctule.kits.oauth_client import OutsideProvider, SignInError
from noctule.kits.passwords import Login, Passwords, RateLimitedError
from noctule.kits.session_users import UserSessions
from noctule.kits.sessions import Sessions
from noctule.kits.store import connect

BASE = os.environ.get("BASE_URL") or os.environ.get("NOCTULE_PUBLIC_URL", "http://127.0.0.1:8000")
IS_SECURE = BASE.startswith("https://")
USERS: dict[str, str] = {}
"""Names and hashes; where a real app has a table."""

store = connect()
passwords = Passwords()
limiter = Limiter(store)
grants = Grants(store)
users = UserSessions(store)
tokens = AccessTokens(SigningKeyRing(store, AppKeys()), issuer=f"{BASE}/oauth", audience=f"{BASE}/api")
checks = Checks(tokens, "hybrid", revocations=Revocations(grants))
clients = ClientStore(
    [Client("phone", "The app on your phone", (f"{BASE}/phone",), scopes=("devices", "profile"))], store
)


async def find(name: str) -> tuple[str, str] | None:
    """The user of that name, who is also the subject."""
    return (name, USERS[name]) if name in USERS else None


async def keep(subject: str, new_hash: str) -> None:
    """Another hash of the same password."""
    USERS[subject] = new_hash


login = Login(passwords, find, keep, limiter=limiter)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Have one user, and close what was opened."""
    USERS["ada"] = await passwords.hash(os.environ.get("ADA_PASSWORD", "correct horse battery staple"))
    checks.start()
    yield
    await checks.aclose()
    await store.aclose()
    passwords.close()


async def approve(scope: Scope, receive: Receive, request: AuthorizationRequest) -> Approval:
    """Who is signed in consents by the form on this page; who is not is asked for a password first."""
    web, session = Request(scope, receive), scope["session"]
    purpose = "sign in" if session.user is None else "consent"
    if web.method == "POST":
        form = await web.form()
        try:
            # No other site consents for the user, nor signs the user in under a name of its own.
            check_csrf(scope, session, str(form.get("token", "")), purpose)
        except CsrfError as error:
            return _page(html.escape(str(error)), "", 403)
        if session.user is not None:
            return Approved(session.user, name=web.headers.get("user-agent", "")[:80])
        return await _sign_in(web, str(form.get("name", "")), str(form.get("password", "")))
    token = f'<input type="hidden" name="token" value="{csrf_token(session, purpose)}">'
    if session.user is None:
        return _page("Sign in", f'<input name="name"><input name="password" type="password">{token}')
    wanted = html.escape(", ".join(request.scopes))
    return _page(f"Let {html.escape(request.client.name)} use: {wanted}?", token)


async def _sign_in(web: Request, name: str, password: str) -> Response:
    peer = client_address(web.client.host if web.client else None, (), ())
    try:
        subjects = [subject_of(peer)] if peer else []
        user = await login.check(name, password, subjects=subjects, device=web.scope["device"])
    except RateLimitedError as error:
        return _page(html.escape(str(error)), "", 429)
    except RequestError as error:  # No password at all.
        return _page(html.escape(str(error)), "", 400)
    if user is None:
        return _page("Name or password is wrong", "", 401)
    web.scope["session"].sign_in(user)
    return RedirectResponse(str(web.url), 303)


def _page(title: str, fields: str, status: int = 200) -> Response:
    form = f'<form method="post">{fields}<button>Go on</button></form>' if fields else '<a href="">Try again</a>'
    return HTMLResponse(f"<h1>{title}</h1>{form}", status)


api = FastAPI()


@api.get("/me")
async def me(user: Annotated[str, Depends(current_user)]) -> dict[str, str]:
    """Whose token it is."""
    return {"user": user}


@api.get("/devices", dependencies=[require_scopes("devices")])
async def devices(user: Annotated[str, Depends(current_user)]) -> list[dict[str, str | int]]:
    """Where the user is signed in."""
    found = await grants.devices(user)
    return [
        {"id": each.id, "name": each.name, "created_ms": each.created_ms, "used_ms": each.used_ms} for each in found
    ]


@api.delete("/devices/{device}", dependencies=[require_scopes("devices")], status_code=204)
async def sign_out(device: str, user: Annotated[str, Depends(current_user)]) -> None:
    """End one sign-in, on every instance."""
    if not await grants.revoke_family(user, device):
        raise HTTPException(404, "no such device of yours")


@api.delete("/devices", dependencies=[require_scopes("devices")], status_code=204)
async def sign_out_everywhere(user: Annotated[str, Depends(current_user)]) -> None:
    """End all of them, this one too, and the sessions of browsers."""
    await users.end_all(user)
    await grants.revoke_subject(user)


app = FastAPI(title="Sign in", lifespan=lifespan)
app.mount("/oauth", AuthorizationServer(tokens, grants, clients, approve, checks=checks))
app.mount("/api", BearerAuth(api, checks))

if "PROVIDER_METADATA_URL" in os.environ:
    outside = OutsideProvider(
        "outside",
        client_id=os.environ["PROVIDER_CLIENT_ID"],
        client_secret=os.environ.get("PROVIDER_CLIENT_SECRET", ""),
        metadata_url=os.environ["PROVIDER_METADATA_URL"],
    )

    @app.get("/outside")
    async def begin_outside(request: Request) -> Response:
        """Sign in at a provider that others run."""
        return await outside.begin(request, f"{BASE}/outside/callback")

    @app.get("/outside/callback")
    async def finish_outside(request: Request) -> dict[str, str]:
        """Back from there."""
        try:
            token = await outside.finish(request)
        except SignInError as error:
            raise HTTPException(400, str(error)) from None
        user = f"outside:{token['userinfo']['sub']}"
        request.scope["session"].sign_in(user)
        return {"signed_in_as": user}


app.add_middleware(Sessions, store=store, plain_http=not IS_SECURE)
app.add_middleware(KnownDevices, plain_http=not IS_SECURE)
