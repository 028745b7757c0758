"""The board itself: who is there, what they wrote, and the pictures with it."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse

from examples.board.accounts import subject_of_name
from examples.board.forms import (
    FormId,
    Name,
    NewPassword,
    Password,
    Text,
    check_limit,
    render,
    session_of,
    subjects_of,
)
from examples.board.guestbook import Entry, now_ms
from examples.board.parts import INSTANCE, accounts, files, guestbook, login, passwords
from noctule.kits.ratelimit import AUTHENTICATION, UPLOAD
from noctule.kits.sessions import Session

PICTURE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif")
PIECE_BYTES = 64 * 1024
PICTURE_LINK_S = 3600

Then = Annotated[str, Form(max_length=4096)]

router = APIRouter()


@router.get("/", response_class=HTMLResponse)
async def page(request: Request) -> Response:
    """The board."""
    session = visit(request)
    return render(
        request,
        "board.html",
        name=session.get("name"),
        has_account=session.user is not None,
        visits=session["visits"],
        session=session.fingerprint,
        instance=INSTANCE,
        entries=await guestbook.newest(),
        link=lambda key: files.links.sign(key, expires_s=PICTURE_LINK_S),
        picture_types=",".join(PICTURE_TYPES),
    )


@router.get("/api/whoami")
async def whoami(request: Request) -> dict[str, str | int | None]:
    """The session as this instance sees it; counts as a visit."""
    session = visit(request)
    return {
        "name": session.get("name"),
        "visits": session["visits"],
        "instance": INSTANCE,
        "session": session.fingerprint,
    }


@router.post("/sign-in")
async def sign_in(request: Request, name: Name, _: FormId, password: Password = "", then: Then = "/") -> Response:
    """Be somebody: the owner of an account, or a guest under a name that is no account's."""
    session = session_of(request)
    account = await accounts.find(name)
    if password:
        user = await login.check(name, password, subjects=subjects_of(request), device=request.scope["device"])
        if user is None or account is None:
            raise HTTPException(401, "That is not the password of that name.")
        enter(session, account.name)  # As it was registered, however it was typed now.
    elif account is not None:
        raise HTTPException(401, "That name is somebody's: it takes a password.")
    else:
        if session.user:
            session.destroy()
        session.regenerate()  # So that nobody who knew the old id is signed in too.
        session["name"] = name
    return RedirectResponse(after_sign_in(then), status_code=303)


@router.post("/register")
async def register(request: Request, name: Name, password: NewPassword, _: FormId, then: Then = "/") -> Response:
    """Make a name one's own."""
    await check_limit(AUTHENTICATION, request)
    password_hash = await passwords.hash(password)
    if not await accounts.register(name, password_hash):
        raise HTTPException(409, "That name is taken. Choose another one.")
    request.scope["device"].trust(subject_of_name(name), password_hash)
    enter(session_of(request), name)
    return RedirectResponse(after_sign_in(then), status_code=303)


@router.post("/sign-out")
async def sign_out(request: Request, _: FormId) -> Response:
    """Be nobody again, in this browser."""
    session_of(request).destroy()
    return RedirectResponse("/", status_code=303)


@router.post("/guestbook")
async def write(
    request: Request, text: Text, form_id: FormId, picture: Annotated[UploadFile | None, File()] = None
) -> Response:
    """Add an entry; the form's id is the entry's, so that a second click adds nothing."""
    session = session_of(request)
    key = ""
    if picture is not None and picture.filename:
        await check_limit(UPLOAD, request)
        # What it is is seen by its bytes, which pass through in pieces; nothing that the visitor says is believed.
        key = (await files.save(pieces(picture), kind="pictures", allowed=PICTURE_TYPES)).key
    name = session.get("name") or "Somebody"
    entry = Entry(name, text, INSTANCE, now_ms(), session.user is not None, key)
    # If this raises, the entry may be there all the same, so its picture stays.
    if not await guestbook.add(form_id, entry) and key:
        await files.delete(key)
    return RedirectResponse("/", status_code=303)


def visit(request: Request) -> Session:
    """Count the visit and give the session."""
    session = session_of(request)
    session.add("visits")
    return session


def enter(session: Session, name: str) -> None:
    """Sign in under a new session id, and onto the list of the account's devices."""
    session.sign_in(subject_of_name(name))
    session["name"] = name


def after_sign_in(then: str) -> str:
    """Back to a program's question, which is the only other page that asks who one is; never to another site."""
    return then if then.startswith("/oauth/authorize?") else "/"


async def pieces(upload: UploadFile) -> AsyncIterator[bytes]:
    """The bytes of a file that came with a form."""
    while piece := await upload.read(PIECE_BYTES):
        yield piece
