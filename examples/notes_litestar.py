"""`notes.py` in Litestar."""

from typing import Any, cast

from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.response import Redirect

from examples import notes
from noctule.kits.asgi import App
from noctule.kits.sessions import Sessions


def create_app(store: str | None = None) -> Sessions:
    """The app; `store` as for `Sessions`."""
    return notes.with_sessions(cast("App", Litestar([show, act], openapi_config=None)), store)


@get("/")
async def show(request: Request[Any, Any, Any]) -> Response[str]:
    """The page."""
    return answer(notes.show(request.scope["session"]))


@post(["/sign-in", "/sign-out", "/notes"])
async def act(request: Request[Any, Any, Any]) -> Response[Any]:
    """A form."""
    form = {name: str(value) for name, value in (await request.form()).items()}
    return answer(notes.post(request.scope, request.scope["session"], request.url.path, form))


def answer(page: notes.Page) -> Response[Any]:
    """As a response of this framework."""
    if page.location:
        return Redirect(page.location, status_code=page.status)
    return Response(page.html, status_code=page.status, media_type=MediaType.HTML)


app = create_app()
