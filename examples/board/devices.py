"""Where an account is signed in, browsers and programs, and how to end it there."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from examples.board.forms import FormId, render, session_of
from examples.board.parts import grants, users

router = APIRouter()


@router.get("/devices", response_class=HTMLResponse)
async def show(request: Request) -> Response:
    """The list."""
    user = user_of(request)
    return render(
        request,
        "devices.html",
        browsers=await users.devices(user),
        programs=await grants.devices(user),
        here=session_of(request).handle,
        day=lambda ms: datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
    )


@router.post("/devices")
async def sign_out(
    request: Request,
    _: FormId,
    what: Annotated[Literal["browser", "program", "everywhere"], Form()],
    device: Annotated[str, Form(max_length=128)] = "",
) -> Response:
    """Sign out one of them, or all; on every instance."""
    user = user_of(request)
    if what == "browser":
        await users.end(user, device)
    elif what == "program":
        await grants.revoke_family(user, device)
    else:
        await users.end_all(user)
        await grants.revoke_subject(user)
        session_of(request).destroy()
        return RedirectResponse("/", status_code=303)
    return RedirectResponse("/devices", status_code=303)


def user_of(request: Request) -> str:
    """The account that is signed in."""
    user = session_of(request).user
    if user is None:
        raise HTTPException(401, "Sign in with a name and its password first.")
    return user
