"""A small board as many apps have one: sign in by name, count visits, write into a guestbook.

Nothing lives in the process. The session and the entries are in the store that NOCTULE_STORE_URL names, so any number
of instances show the same board, and one of them may end at any time.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Form, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from pydantic import StringConstraints
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.board.guestbook import Entry, Guestbook, is_entry_id, new_cache, new_entry_id, now_ms
from noctule.base.errors import NoctuleError
from noctule.kits.csrf import CsrfError, check_csrf, csrf_token, is_browser
from noctule.kits.locks import Lease, Locks
from noctule.kits.ratelimit import Policy, RateLimits, Rule
from noctule.kits.sessions import Session, Sessions
from noctule.kits.store import connect

INSTANCE = os.environ.get("INSTANCE_ID", "local")
BODY_BYTES_MAX = 16 * 1024
PRUNE_S = 10.0
POSTS = Policy(name="posts", limit=1_000, window_s=60.0)
"""Of one address, over all instances."""

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40), Form()]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500), Form()]
FormId = Annotated[str, Form(max_length=64)]
Token = Annotated[str, Form(max_length=64)]

store = connect()
guestbook = Guestbook(store, new_cache(store))
templates = Jinja2Templates(Path(__file__).with_name("templates"))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """While the app runs, one of all instances prunes the guestbook; close the connections to the store at the end."""
    pruning = asyncio.create_task(Locks(store).lead("board:pruning", prune), name="pruning")
    yield
    pruning.cancel()
    await asyncio.wait([pruning])
    await store.aclose()


async def prune(_: Lease) -> None:
    """Again and again. Two at once would do no harm, so nobody has to look at the lease's token."""
    while True:
        with suppress(NoctuleError):  # The store is away: the next time will do.
            await guestbook.prune()
        await asyncio.sleep(PRUNE_S)


class BoundedBody:
    """ASGI middleware: refuses with 413 to read more than `BODY_BYTES_MAX` of a request; forms are small."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        bytes_left = BODY_BYTES_MAX

        async def bounded_receive() -> Message:
            nonlocal bytes_left
            message = await receive()
            bytes_left -= len(message.get("body", b""))
            if bytes_left < 0:
                raise HTTPException(413, f"The form is longer than {BODY_BYTES_MAX} bytes.")
            return message

        await self.app(scope, bounded_receive if scope["type"] == "http" else receive, send)


app = FastAPI(title="Board", lifespan=lifespan)
app.add_middleware(Sessions, store=store)
app.add_middleware(BoundedBody)
app.add_middleware(
    RateLimits, rules=[Rule(POSTS, methods=("POST",), by=("ip",))], store=store, trusted_proxies=["127.0.0.1", "::1"]
)


@app.get("/", response_class=HTMLResponse)
async def page(request: Request) -> Response:
    """The board."""
    session = visit(request)
    form_id = new_entry_id()
    context = {
        "name": session.get("name"),
        "visits": session["visits"],
        "session": session.fingerprint,
        "instance": INSTANCE,
        "entries": await guestbook.newest(),
        "form_id": form_id,
        "token": csrf_token(session, form_id),
    }
    return templates.TemplateResponse(request, "board.html", context, headers={"cache-control": "no-store"})


@app.get("/api/whoami")
async def whoami(request: Request) -> dict[str, str | int | None]:
    """The session as this instance sees it; counts as a visit."""
    session = visit(request)
    return {
        "name": session.get("name"),
        "visits": session["visits"],
        "instance": INSTANCE,
        "session": session.fingerprint,
    }


@app.post("/sign-in")
async def sign_in(request: Request, name: Name, form_id: FormId = "", token: Token = "") -> Response:
    """Be somebody; under a new session id, so that nobody who knew the old one is signed in too."""
    session: Session = request.scope["session"]
    check_form(request, session, form_id, token)
    session.regenerate()
    session["name"] = name
    return RedirectResponse("/", status_code=303)


@app.post("/sign-out")
async def sign_out(request: Request, form_id: FormId = "", token: Token = "") -> Response:
    """Be nobody again."""
    session: Session = request.scope["session"]
    check_form(request, session, form_id, token)
    session.destroy()
    return RedirectResponse("/", status_code=303)


@app.post("/guestbook")
async def write(request: Request, text: Text, form_id: FormId = "", token: Token = "") -> Response:
    """Add an entry; the form's id is the entry's, so that a second click adds nothing."""
    session: Session = request.scope["session"]
    check_form(request, session, form_id, token)
    entry = Entry(session.get("name") or "Somebody", text, INSTANCE, now_ms())
    await guestbook.add(form_id or new_entry_id(), entry)
    return RedirectResponse("/", status_code=303)


def visit(request: Request) -> Session:
    """Count the visit and give the session."""
    session: Session = request.scope["session"]
    session.add("visits")
    return session


def check_form(request: Request, session: Session, form_id: str, token: str) -> None:
    """Refuse forms of other sites, with 403: the token proves the page, and that the id was given out there.

    A program that names no origin, as every browser does, may leave the token out.
    """
    if not (form_id or token or is_browser(request.scope)):
        return
    try:
        check_csrf(request.scope, session, token, form_id)
    except CsrfError as error:
        raise HTTPException(403, "This form is no longer valid. Go back, reload the page and try again.") from error
    if not is_entry_id(form_id):
        raise HTTPException(403, "This form is no longer valid. Go back, reload the page and try again.")


def error_page(request: Request, status: int, message: str) -> Response:
    """An error for people."""
    return templates.TemplateResponse(request, "error.html", {"message": message}, status_code=status)


@app.exception_handler(HTTPException)
async def show_http_error(request: Request, error: HTTPException) -> Response:
    """Errors that the board raises itself."""
    return error_page(request, error.status_code, str(error.detail))


@app.exception_handler(RequestValidationError)
async def show_bad_form(request: Request, error: RequestValidationError) -> Response:
    """A form that is out of bounds: say which field and why."""
    problems = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
    return error_page(request, 422, f"Please check the form. {problems}.")


@app.exception_handler(NoctuleError)
async def show_store_error(request: Request, error: NoctuleError) -> Response:
    """The store is away; whether a post took effect is said, since the entry's id makes trying again safe."""
    response = error_page(request, 503, "The board's store is not reachable at the moment. Trying again is safe.")
    response.headers["retry-after"] = "1"
    return response
