"""What all pages share: fields with bounds, forms that only our own pages can post, and how a page is rendered."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Form, HTTPException, Request, Response
from pydantic import StringConstraints
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.board.guestbook import is_entry_id, new_entry_id
from examples.board.parts import PICTURE_BYTES_MAX, TRUSTED_PROXIES, limiter, templates
from noctule.core.limits.policy import Policy
from noctule.kits.client_address import client_address, parse_networks, subject_of
from noctule.kits.csrf import CsrfError, check_csrf, csrf_token, is_browser
from noctule.kits.passwords import RateLimitedError
from noctule.kits.sessions import Session

FORM_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX: Mapping[str, int] = {"/guestbook": FORM_BYTES_MAX + PICTURE_BYTES_MAX}
"""By path, where a form is larger than others."""

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40), Form()]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500), Form()]
Password = Annotated[str, StringConstraints(max_length=200), Form()]
NewPassword = Annotated[str, StringConstraints(min_length=8, max_length=200), Form()]

_TRUSTED = parse_networks(TRUSTED_PROXIES)


class BoundedBody:
    """ASGI middleware: refuses with 413 to read more of a request than its path may have."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        bytes_max = bytes_left = BODY_BYTES_MAX.get(scope.get("path", ""), FORM_BYTES_MAX)

        async def bounded_receive() -> Message:
            nonlocal bytes_left
            message = await receive()
            bytes_left -= len(message.get("body", b""))
            if bytes_left < 0:
                raise HTTPException(413, f"The form is longer than {bytes_max} bytes.")
            return message

        await self.app(scope, bounded_receive if scope["type"] == "http" else receive, send)


def session_of(request: Request) -> Session:
    """The visitor's session."""
    session: Session = request.scope["session"]
    return session


def check_form(
    request: Request,
    form_id: Annotated[str, Form(max_length=64)] = "",
    token: Annotated[str, Form(max_length=64)] = "",
) -> str:
    """The form's id; forms of other sites are refused with 403. The token proves the page, and that it gave the id out.

    A program that names no origin, as every browser does, may leave both out.
    """
    if not (form_id or token or is_browser(request.scope)):
        return new_entry_id()
    try:
        check_csrf(request.scope, session_of(request), token, form_id)
    except CsrfError as error:
        raise HTTPException(403, "This form is no longer valid. Go back, reload the page and try again.") from error
    if not is_entry_id(form_id):
        raise HTTPException(403, "This form is no longer valid. Go back, reload the page and try again.")
    return form_id


FormId = Annotated[str, Depends(check_form)]
"""The parameter of a handler that is called for forms of our own pages only."""


def subjects_of(request: Request) -> list[str]:
    """Whom limits count: the address, and the account of who is signed in."""
    address = client_address(request.client.host if request.client else None, request.scope["headers"], _TRUSTED)
    found = [subject_of(address)] if address else []
    return [*found, f"user:{user}"] if (user := session_of(request).user) else found


async def check_limit(policy: Policy, request: Request) -> None:
    """Count what a middleware cannot see from outside. Raises `RateLimitedError`."""
    decision = await limiter.hit([policy], subjects_of(request))
    if not decision.is_admitted:
        raise RateLimitedError(decision)


def render(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """A page whose forms carry an id and a token; no cache keeps it."""
    form_id = new_entry_id()
    forms = {"form_id": form_id, "token": csrf_token(session_of(request), form_id)}
    return templates.TemplateResponse(
        request, template, context | forms, status_code=status, headers={"cache-control": "no-store"}
    )


def error_page(request: Request, status: int, message: str, retry_after_s: float = 0) -> Response:
    """An error for people."""
    headers = {"retry-after": str(math.ceil(retry_after_s))} if retry_after_s else None
    return templates.TemplateResponse(request, "error.html", {"message": message}, status_code=status, headers=headers)
