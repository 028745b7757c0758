"""The API for programs: whoever calls it has an access token, which says for whom and what it may do."""

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, StringConstraints

from examples.board.guestbook import Entry, new_entry_id, now_ms
from examples.board.parts import INSTANCE, accounts, grants, guestbook
from noctule.base.errors import NoctuleError
from noctule.kits.asgi import error_body
from noctule.kits.oauth2.fastapi import current_user, require_scopes

User = Annotated[str, Depends(current_user)]

api = FastAPI(title="Board for programs")


class NewEntry(BaseModel):
    """What a program writes."""

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]


@api.get("/me")
async def me(user: User) -> dict[str, str]:
    """Whose token it is, and who answers."""
    return {"user": user, "instance": INSTANCE}


@api.get("/entries")
async def entries(_: User) -> list[dict[str, str | int | bool]]:
    """The newest entries, newest first."""
    newest = await guestbook.newest()
    return [
        {"name": each.name, "text": each.text, "written_ms": each.written_ms, "has_picture": bool(each.picture)}
        for each in newest
    ]


@api.post("/entries", dependencies=[require_scopes("entries")], status_code=201)
async def write(entry: NewEntry, user: User) -> dict[str, str]:
    """Write in the user's name."""
    account = await accounts.find(user)
    entry_id = new_entry_id()
    await guestbook.add(entry_id, Entry(account.name if account else user, entry.text, INSTANCE, now_ms(), True))
    return {"id": entry_id}


@api.get("/devices", dependencies=[require_scopes("devices")])
async def devices(user: User) -> list[dict[str, str | int]]:
    """The programs that act for the user."""
    return [{"id": each.id, "name": each.name, "used_ms": each.used_ms} for each in await grants.devices(user)]


@api.delete("/devices/{device}", dependencies=[require_scopes("devices")], status_code=204)
async def sign_out(device: str, user: User) -> None:
    """End one of them, on every instance."""
    if not await grants.revoke_family(user, device):
        raise HTTPException(404, "no such program acts for you")


@api.exception_handler(NoctuleError)
async def show_kit_error(_: Request, error: NoctuleError) -> Response:
    """The store is away, or does not say whether it has written."""
    text = "the board's store is not reachable at the moment"
    body = error_body(error.code, text, retryable=error.retryable, outcome=error.outcome)
    return JSONResponse(body, 503, {"retry-after": "1"})
