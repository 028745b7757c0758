"""`notes.py` in Flask, which speaks WSGI: a2wsgi runs it in threads, inside the ASGI middleware."""

from typing import Any, cast

from a2wsgi import WSGIMiddleware
from flask import Flask, Response, redirect, request

from examples import notes
from noctule.kits.asgi import App, Scope
from noctule.kits.sessions import Sessions


def create_app(store: str | None = None) -> Sessions:
    """The app; `store` as for `Sessions`."""
    app = Flask(__name__)

    @app.get("/")
    def show() -> Any:
        return answer(notes.show(scope()["session"]))

    @app.post("/<action>")
    def post(action: str) -> Any:
        return answer(notes.post(scope(), scope()["session"], action, request.form.to_dict()))

    return notes.with_sessions(cast("App", WSGIMiddleware(cast("Any", app))), store)


def scope() -> Scope:
    """What the ASGI server and the middleware know of this request."""
    found: Scope = request.environ["asgi.scope"]
    return found


def answer(page: notes.Page) -> Any:
    """As a response of this framework."""
    if page.location:
        return redirect(page.location, page.status)
    return Response(page.html, page.status)


app = create_app()
