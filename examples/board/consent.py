"""The question to a person whether a program may act for them; the authorization server asks it."""

from fastapi import HTTPException, Request

from examples.board.forms import render, session_of
from examples.board.parts import SCOPES
from noctule.kits.asgi import Receive, Scope
from noctule.kits.csrf import CsrfError, check_csrf
from noctule.kits.oauth2.messages import AuthorizationRequest
from noctule.kits.oauth2.server import Approval, Approved, Refused


async def approve(scope: Scope, receive: Receive, asked: AuthorizationRequest) -> Approval:
    """Who is signed in is shown what the program may do, and says yes or no; who is not signs in first."""
    request = Request(scope, receive)
    session = session_of(request)
    if session.user is None:
        return render(request, "sign_in.html", then=f"{scope['path']}?{scope['query_string'].decode('latin-1')}")
    if request.method != "POST":
        return render(
            request, "consent.html", program=asked.client.name, wanted=[SCOPES[each] for each in asked.scopes]
        )
    form = await request.form()
    try:
        check_csrf(scope, session, str(form.get("token", "")), str(form.get("form_id", "")))
    except CsrfError as error:
        raise HTTPException(403, "This form is no longer valid. Go back, reload the page and try again.") from error
    if form.get("answer") != "yes":
        return Refused()
    return Approved(session.user, name=request.headers.get("user-agent", "")[:80])
