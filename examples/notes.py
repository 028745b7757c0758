"""Notes that a visitor keeps in the session: the app itself, which knows no framework.

`notes_fastapi.py`, `notes_django.py`, `notes_litestar.py` and `notes_flask.py` wire it to theirs: each takes
``scope["session"]``, hands over the fields of a form, and gives back what it is told. Run one with

    NOCTULE_PLAIN_HTTP=1 uvicorn examples.notes_fastapi:app
"""

from collections.abc import Mapping
from html import escape
from typing import NamedTuple

from noctule.kits.asgi import App, Scope
from noctule.kits.csrf import CsrfError, SameOrigin, check_csrf, csrf_token
from noctule.kits.sessions import Session, Sessions

NOTES_MAX = 20
TEXT_CHARACTERS_MAX = 200


class Page(NamedTuple):
    """What is answered."""

    status: int
    html: str = ""
    location: str = ""


def with_sessions(app: App, store: str | None = None) -> Sessions:
    """The middleware, the same for all."""
    return Sessions(SameOrigin(app), store=store)


def show(session: Session) -> Page:
    """The page with its forms."""
    token = f'<input type="hidden" name="token" value="{csrf_token(session)}">'
    notes = "".join(f"<li>{escape(note)}</li>" for note in session.get("notes", []))
    if session.user:
        head = f"<p>{escape(session.user)}</p>" + _form("/sign-out", token, "<button>Sign out</button>")
    else:
        head = _form("/sign-in", token, '<input name="name"><button>Sign in</button>')
    writing = _form("/notes", token, '<input name="text">')
    return Page(200, f"<!doctype html>{head}<ul>{notes}</ul>{writing}")


def post(scope: Scope, session: Session, path: str, form: Mapping[str, str]) -> Page:
    """What a form does."""
    try:
        check_csrf(scope, session, form.get("token", ""))
    except CsrfError as error:
        return Page(403, escape(str(error)))
    match path.strip("/"):
        case "sign-in" if name := form.get("name", "").strip()[:40]:
            session.sign_in(name)  # A new id; whatever was noted before stays.
        case "sign-out":
            session.destroy()
        case "notes" if text := form.get("text", "").strip()[:TEXT_CHARACTERS_MAX]:
            session.change("notes", lambda notes: [*notes, text][-NOTES_MAX:], [])
        case _:
            return Page(422, "Please fill in the form.")
    return Page(303, location="/")


def _form(path: str, token: str, fields: str) -> str:
    return f'<form method="post" action="{path}">{token}{fields}</form>'
