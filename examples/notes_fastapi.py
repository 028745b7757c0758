"""`notes.py` in FastAPI; in Starlette the same."""

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from examples import notes
from noctule.kits.sessions import Sessions


def create_app(store: str | None = None) -> Sessions:
    """The app; `store` as for `Sessions`."""
    app = FastAPI()

    @app.get("/")
    async def show(request: Request) -> Response:
        return answer(notes.show(request.scope["session"]))

    @app.post("/{path}")
    async def post(request: Request, path: str) -> Response:
        form = {name: str(value) for name, value in (await request.form()).items()}
        return answer(notes.post(request.scope, request.scope["session"], path, form))

    return notes.with_sessions(app, store)


def answer(page: notes.Page) -> Response:
    """As a response of this framework."""
    if page.location:
        return RedirectResponse(page.location, page.status)
    return HTMLResponse(page.html, page.status)


app = create_app()
