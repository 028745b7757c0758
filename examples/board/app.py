"""A small board as many apps have one: sign in, write into a guestbook, post a picture, let programs write for you.

Nothing lives in the process. What visitors do is in the store that NOCTULE_STORE_URL names, and their pictures in the
one of NOCTULE_FILES_URL, so any number of instances show the same board, and one of them may end at any time.

Here it is put together. parts.py has each kit once, the other modules what is done with them: guestbook.py and
accounts.py keep, pages.py and devices.py are for people, consent.py and api.py for their programs.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from examples.board import devices, pages
from examples.board.api import api
from examples.board.consent import approve
from examples.board.forms import BoundedBody, error_page
from examples.board.parts import (
    TRUSTED_PROXIES,
    checks,
    clients,
    files,
    grants,
    guestbook,
    limiter,
    passwords,
    session_keys,
    store,
    tokens,
)
from noctule.base.errors import NoctuleError, RequestError, TooLargeError
from noctule.kits.files.serving import FileLinks
from noctule.kits.known_devices import KnownDevices
from noctule.kits.locks import Lease, Locks
from noctule.kits.oauth2.bearer import BearerAuth
from noctule.kits.oauth2.server import AuthorizationServer
from noctule.kits.passwords import RateLimitedError
from noctule.kits.ratelimit import API, Policy, RateLimits, Rule
from noctule.kits.sessions import Sessions

PRUNE_S = 10.0
POSTS = Policy(name="posts", limit=1_000, window_s=60.0)
"""Of one address, over all instances."""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """While the app runs: learn of revoked tokens, and have one of all instances prune, and one repair files."""
    checks.start()
    keepers = [
        asyncio.create_task(Locks(store).lead("board:pruning", prune), name="pruning"),
        asyncio.create_task(files.keep_repaired(), name="repairs"),
    ]
    yield
    for keeper in keepers:
        keeper.cancel()
    await asyncio.wait(keepers)
    await checks.aclose()
    await files.aclose()
    await store.aclose()
    passwords.close()


async def prune(_: Lease) -> None:
    """Again and again. Two at once would do no harm, so nobody has to look at the lease's token."""
    while True:
        with suppress(NoctuleError):  # The store is away: the next time will do.
            await guestbook.prune(files.delete)
        await asyncio.sleep(PRUNE_S)


app = FastAPI(title="Board", lifespan=lifespan)
app.include_router(pages.router)
app.include_router(devices.router)
app.mount("/files", FileLinks(files))
app.mount("/oauth", AuthorizationServer(tokens, grants, clients, approve, checks=checks))
app.mount("/api/v1", BearerAuth(api, checks))

# The one that is added last is met first.
app.add_middleware(Sessions, store=store, keys=session_keys, trusted_proxies=TRUSTED_PROXIES)
app.add_middleware(KnownDevices)
app.add_middleware(BoundedBody)
app.add_middleware(
    RateLimits,
    rules=[Rule(POSTS, methods=("POST",), by=("ip",)), Rule(API, paths=("/api/v1",), by=("token",))],
    limiter=limiter,
    trusted_proxies=TRUSTED_PROXIES,
)


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
async def show_kit_error(request: Request, error: NoctuleError) -> Response:
    """What a kit refuses, in its words; else a store is away, and since ids make posts safe to repeat, that is said."""
    if isinstance(error, RateLimitedError):
        return error_page(request, 429, f"{error}.", retry_after_s=error.decision.retry_after_s)
    if isinstance(error, RequestError):
        return error_page(request, 413 if isinstance(error, TooLargeError) else 422, f"{error}.")
    return error_page(request, 503, "The board's store is not reachable at the moment. Trying again is safe.", 1)
